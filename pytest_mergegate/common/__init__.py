"""What every room may use: errors, findings, values, words, and the files of strangers."""

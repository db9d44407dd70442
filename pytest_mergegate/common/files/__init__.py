"""Files read and written safely, whoever made them or put links in their way."""

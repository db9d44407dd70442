"""The five stages, one file each, and the pipeline that takes a pool down them."""

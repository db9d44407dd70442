"""The five stages, one file each: a function of (pool, spec, engine) to a frozen result."""

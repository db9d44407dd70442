"""Models run on inputs: states, executors, Ray, and the cache of what they gave."""

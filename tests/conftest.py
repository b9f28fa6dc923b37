from hypothesis import settings

# Properties that say nothing else are tried on 40 examples: the fast tests have six minutes for all of them.
settings.register_profile("fast", max_examples=40)
settings.load_profile("fast")

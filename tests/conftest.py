import os

from hypothesis import settings

# Two test processes with two threads each wait for one another at every barrier; before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Properties that say nothing else are tried on 40 examples: the fast tests have six minutes for all of them.
settings.register_profile("fast", max_examples=40)
settings.load_profile("fast")

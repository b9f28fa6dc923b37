"""How many threads torch may use; set by commands, never at import."""

import os


def one_torch_thread() -> int:
    """Gives torch one thread, unless OMP_NUM_THREADS says otherwise; returns the number.

    Small networks on a processor ran 6 to 11 times slower with torch's own choice on a loaded two-core machine.
    Worker processes inherit the environment variable.
    """
    wish = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(wish) if wish.isdigit() and int(wish) > 0 else 1
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    return torch.get_num_threads()

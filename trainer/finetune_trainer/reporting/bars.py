"""Progress bars of the libraries that we use: on a terminal only. A log would keep every state of them; it gets lines of ours."""

import os
import sys

# What each library reads when it is imported, and the function that says the same later.
_VARIABLES = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")
_FUNCTIONS = {
    "huggingface_hub.utils": "disable_progress_bars",
    "datasets": "disable_progress_bars",
    "transformers.utils.logging": "disable_progress_bar",
}


def bars_on_a_terminal_only() -> None:
    """Called where a process begins. The processes that it starts do the same; whoever set the variables decides."""
    if sys.stderr.isatty() or any(name in os.environ for name in _VARIABLES):
        return
    for name in _VARIABLES:
        os.environ[name] = "1"
    for module, function in _FUNCTIONS.items():
        if module in sys.modules:
            getattr(sys.modules[module], function)()

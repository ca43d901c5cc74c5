"""The image that holds a pod's name spaces open: one static program that sleeps. Compiled here, since no registry is asked."""

import subprocess
from pathlib import Path
from typing import Final

from tests.testcluster.images import File, ImageArchive, write_image

PAUSE_IMAGE: Final = "cluster.test/pause:1"
# Process 1 ignores signals that it does not handle; it also inherits what the pod's processes leave behind.
SOURCE: Final = """
#include <signal.h>
#include <unistd.h>
static void leave(int number) { (void)number; _exit(0); }
int main(void) {
  signal(SIGTERM, leave);
  signal(SIGINT, leave);
  signal(SIGCHLD, SIG_IGN);
  for (;;) pause();
}
"""


def pause_image(folder: Path) -> ImageArchive:
    """An archive of the image in `folder`. Needs a C compiler and its static library."""
    program = folder / "pause"
    command = ["cc", "-static", "-Os", "-s", "-x", "c", "-", "-o", str(program)]
    done = subprocess.run(command, input=SOURCE, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the pause program does not compile; apt-get install gcc libc6-dev\n{done.stderr[-2000:]}")
    files = [File(path="pause", content=program.read_bytes(), mode=0o755)]
    return write_image(folder / "pause.tar", PAUSE_IMAGE, files, entrypoint=["/pause"])

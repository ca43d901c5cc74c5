"""What a sandboxed program may read of this machine: what Python and its libraries are made of.

In: this interpreter. Out: paths for `root.build`. Homes and working folders aren't among them, nor a whole installation prefix, which
may be somebody's home: of that only the parts that Python looks into.
"""

import os
import sys

_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
_SETTINGS = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts", "/etc/localtime")
_PARTS_OF_PREFIX = ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "share", "pyvenv.cfg")
_PACKAGES = ("site-packages", "dist-packages")


def shown() -> list[str]:
    """Paths that exist on this machine, none below another, sorted."""
    prefixes = {place for prefix in (sys.prefix, sys.base_prefix) for place in (prefix, os.path.realpath(prefix))}
    programs = [f"{prefix}/{part}" for prefix in (*prefixes, "/usr", "/usr/local") for part in _PARTS_OF_PREFIX]
    paths = [path for path in (*_SYSTEM, *_SETTINGS) if not os.path.islink(path) or path in _SETTINGS]
    return _outermost([path for path in (*paths, *programs, *_package_folders()) if os.path.exists(path)])


def links() -> dict[str, str]:
    """Folders of the system that are symbolic links, such as /bin to usr/bin, with where they lead."""
    return {path: os.readlink(path) for path in _SYSTEM if os.path.islink(path)}


def search_path() -> str:
    """PYTHONPATH for installed packages that Python, with another home, wouldn't find: those that `pip install --user` brought."""
    own = tuple(f"{prefix}/" for prefix in (sys.prefix, sys.base_prefix))
    return ":".join(folder for folder in _package_folders() if not folder.startswith(own))


def _package_folders() -> list[str]:
    return [folder for folder in sys.path if os.path.basename(folder) in _PACKAGES and os.path.isdir(folder)]


def _outermost(paths: list[str]) -> list[str]:
    """Without those that lie below another.

    >>> _outermost(["/usr", "/opt/python/lib", "/usr/lib/python3"])
    ['/opt/python/lib', '/usr']
    """
    kept: list[str] = []
    for path in sorted(set(map(os.path.normpath, paths))):
        if not any(path.startswith(f"{above}/") for above in kept):
            kept.append(path)
    return kept

"""Names of images with and without the digest of what ran. Pure.

A tag may be moved between two attempts, and then they would run two programs. What preparation ran is known by its digest, where the
node could tell; every later pod that is to run the image of that name runs that very one.
"""

from typing import Final

# Of the container runtime's names for image IDs, what Docker's has before the name.
_DOCKER: Final = "docker-pullable://"
_DIGEST: Final = "@sha256:"


def image_that_ran(image: str, image_id: str) -> str | None:
    """Whole name and digest of a container's image, from `image` and `imageID` of its status; None where it can't be pulled by it.

    An image that was loaded into the node has the digest of no registry, and one that has several names is told by any of them.

    >>> image_that_ran("registry.example/trainer:1", "registry.example/trainer@sha256:5f")
    'registry.example/trainer:1@sha256:5f'
    >>> image_that_ran("trainer:1", "docker.io/library/import-2026-11-28@sha256:5f")
    >>> image_that_ran("trainer:1", "sha256:5f")
    """
    repository, found, digest = image_id.removeprefix(_DOCKER).partition(_DIGEST)
    name = _whole(image)
    if not found or _DIGEST in name or _repository(name) != _repository(_whole(repository)):
        return None
    return f"{name}{_DIGEST}{digest}"


def by_digest(image: str, ran: str | None) -> str:
    """The image with the digest of the one that ran, if that has its name.

    >>> by_digest("trainer:1", "docker.io/library/trainer:1@sha256:5f")
    'trainer:1@sha256:5f'
    >>> by_digest("trainer:2", "docker.io/library/trainer:1@sha256:5f")
    'trainer:2'
    """
    name, found, digest = (ran or "").partition(_DIGEST)
    return f"{image}{found}{digest}" if found and _whole(image) == name else image


def _whole(image: str) -> str:
    """As container runtimes complete a name: `trainer` is `docker.io/library/trainer:latest`.

    >>> [_whole(name) for name in ("trainer", "org/trainer:1", "localhost:5000/trainer")]
    ['docker.io/library/trainer:latest', 'docker.io/org/trainer:1', 'localhost:5000/trainer:latest']
    """
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not ("." in first or ":" in first or first == "localhost"):
        image = f"docker.io/{image}"
    return image if _DIGEST in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def _repository(name: str) -> str:
    """A whole name without its tag."""
    return name.rpartition(":")[0]

"""What is fuzzed: one module per reader, each with the same few names.

``PACKAGES``
    Packages whose branches guide the search.
``seeds()``
    Inputs to begin with, as bytes; the program itself makes them.
``check(data, folder)``
    Reads one input, with files in ``folder``. It may raise :class:`pipeline.errors.PipelineError`
    and nothing else; what it asserts must hold.
``mutate(data, random)``, in some
    Changes an input within its structure, and signs it again, so that the search gets behind
    checksums and digests.
"""

TARGETS = (
    "splits",
    "annotations",
    "detections",
    "params",
    "masks",
    "images",
    "heads",
    "estimators",
    "shards",
    "samples",
    "manifests",
)

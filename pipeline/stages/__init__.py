"""The stages of the pipeline, one module each, in the order in which they run.

``extract`` → ``fit_sparse`` → ``fit_dense`` → ``evaluate`` → ``report``, and ``predict`` for new
images. Every stage takes paths and plain values and writes files; only ``extract`` and ``predict``
ever run a backbone.
"""

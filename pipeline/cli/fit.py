"""``pipeline fit-sparse`` and ``pipeline fit-dense``: stage two."""

from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import (
    PATH,
    cache_option,
    device_option,
    feature_options,
    features_given,
    has_params,
    params_option,
    read_params,
    trust_option,
    with_features,
)


@click.command(
    "fit-sparse",
    epilog="\b\n"
    "Examples:\n"
    "  pipeline fit-sparse --cache cache/vgg11 --out sparse.safetensors\n"
    "  pipeline fit-sparse --cache cache/vgg11 --out linear.safetensors --estimator logistic\n"
    "  pipeline fit-sparse --cache cache/vgg11 --out mlp.safetensors --option hidden=256 \\\n"
    "                      --option epochs=50 --pixels-per-class 20\n"
    "  pipeline fit-sparse --cache cache/vgg11 --out zoom.safetensors \\\n"
    "                      --context global,3,5,conv4_2:global,conv4_2:5\n"
    "  pipeline fit-sparse --cache cache/vgg11 --out grid.safetensors --estimator logistic \\\n"
    "                      --grid 5\n"
    "  pipeline fit-sparse --cache cache/vgg11 --out lda.safetensors \\\n"
    "                      --estimator sklearn.discriminant_analysis:LinearDiscriminantAnalysis\n"
    "\b\n"
    "Estimators: mlp, logistic, svm, sgd become dense heads; forest and boosting\n"
    "predict in blocks; package.module:Class is a scikit-learn estimator of your own.",
)
@cache_option
@click.option(
    "--out", type=PATH, required=True, metavar="HEAD", help="Head to write, *.safetensors."
)
@click.option("--estimator", help="See below [default: mlp].")
@click.option(
    "--option",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the estimator, such as hidden=256, epochs=50, batch_size=full, "
    "learning_rate=0.001, alpha=0.0001, dropout=0.5, members=4. Repeat for more.",
)
@click.option(
    "--grid",
    type=int,
    metavar="K",
    help="A grid of K x K classifiers over the image, interpolated [default: 1].",
)
@click.option("--split", help="Whose samples to fit on [default: train].")
@click.option(
    "--holdout", type=float, help="Share of images held out for the accuracy [default: 0.1]."
)
@click.option(
    "--seed", type=int, help="Seed of the estimator and of what is held out [default: 0]."
)
@click.option(
    "--max-samples",
    type=int,
    help="Most samples to fit on; the others are left out at random. Memory grows with it, but not "
    "for mlp [default: all for mlp, 200 MB for others].",
)
@feature_options
@trust_option
@params_option
def fit_sparse(
    cache: Path,
    out: Path,
    settings: tuple[str, ...],
    trusted: tuple[str, ...],
    params_path: Path | None,
    **options: Any,
) -> None:
    """Fit a pixel classifier on the samples of a cache."""
    from pipeline.cli.console import Console
    from pipeline.params import override
    from pipeline.stages.fit_sparse import fit_sparse as run

    asked = features_given(options) or has_params(params_path)
    params = with_features(read_params(params_path), options)
    given = params.fit_sparse.options | dict(_setting(text) for text in settings)
    chosen = override(params.fit_sparse, {**options, "options": given})
    result = run(
        cache,
        out,
        split=chosen.split,
        estimator=chosen.estimator,
        options=chosen.options,
        grid=chosen.grid,
        drawing=params.drawing() if asked else None,
        holdout=chosen.holdout,
        seed=chosen.seed,
        max_samples=chosen.max_samples,
        trusted=trusted,
        progress=Console(),
    )
    accuracy = result.heldout_accuracy
    held_out = "nothing held out" if accuracy is None else f"held-out accuracy {accuracy:.4f}"
    click.echo(f"{result.head}: fitted on {result.samples} pixel samples, {held_out}")


def _setting(text: str) -> tuple[str, Any]:
    """Read ``name=value``, the value as YAML would: 0.5 is a number, full is a word."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"'{text}' is not of the form NAME=VALUE", param_hint="--option")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise click.BadParameter(
            f"the value of '{text}' is not YAML; put it into quotes", param_hint="--option"
        ) from error


@click.command(
    "fit-dense",
    epilog="\b\n"
    "Examples:\n"
    "  pipeline fit-dense --cache cache/vgg11 --init sparse.safetensors --out dense.safetensors\n"
    "  pipeline fit-dense --cache cache/vgg11 --init sparse.safetensors \\\n"
    "                     --out dense.safetensors --epochs 10 --validate-on held-out\n"
    "  torchrun --nproc-per-node 2 -m pipeline fit-dense --cache cache/vgg11 \\\n"
    "           --init sparse.safetensors --out dense.safetensors",
)
@cache_option
@click.option("--init", type=PATH, required=True, metavar="HEAD", help="Head to begin with.")
@click.option(
    "--out", type=PATH, required=True, metavar="HEAD", help="Head to write, *.safetensors."
)
@click.option("--epochs", type=int, help="Passes over all training images [default: 4].")
@click.option("--batch-size", type=int, help="Images per optimiser step [default: 4].")
@click.option("--learning-rate", type=float, help="Adam's, at the start [default: 0.0005].")
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "constant"]),
    help="Of the learning rate [default: cosine].",
)
@click.option("--weight-decay", type=float, help="Decoupled, on the weights [default: 0].")
@click.option(
    "--dropout",
    type=float,
    help="Share of the hidden units, if there are any, that a step does without [default: 0].",
)
@click.option(
    "--label-smoothing",
    type=float,
    help="Share of a pixel's target that is spread over all classes [default: 0.1].",
)
@click.option(
    "--class-weights",
    type=click.Choice(["none", "inverse", "batch"]),
    help="Inverse class frequency over the training set, or over each batch [default: none].",
)
@click.option("--split", help="Training images [default: train].")
@click.option(
    "--validate-on",
    help="A split; or 'held-out', the training images that fit-sparse held out; or 'nothing' "
    "[default: val].",
)
@click.option(
    "--keep", type=click.Choice(["best", "last"]), help="Which epoch to keep [default: best]."
)
@click.option("--seed", type=int, help="Seed of the order of images [default: 0].")
@click.option("--history", type=PATH, metavar="CSV", help="Where to write the epochs' metrics.")
@device_option
@params_option
def fit_dense(
    cache: Path,
    init: Path,
    out: Path,
    validate_on: str | None,
    history: Path | None,
    device: str,
    params_path: Path | None,
    **options: Any,
) -> None:
    """Turn a head into 1x1 convolutions and train it on every pixel, from the cache alone.

    An interrupted run goes on from its last epoch to the same result. Under torchrun, several
    processes divide every batch among them.
    """
    from pipeline.cli.console import Console
    from pipeline.params import override
    from pipeline.stages.fit_dense import fit_dense as run

    chosen = override(read_params(params_path).fit_dense, {**options, "validate_on": validate_on})
    result = run(
        cache,
        init,
        out,
        split=chosen.split,
        settings=chosen.settings(),
        validate_on=None if chosen.validate_on == "nothing" else chosen.validate_on,
        keep=chosen.keep,
        history=history,
        device=device,
        progress=Console(),
    )
    if result.rank == 0:
        click.echo(f"{result.head}: epoch {result.history['best_epoch']} kept")

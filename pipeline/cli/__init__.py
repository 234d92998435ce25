"""The command line. It knows of click and of the stages; it knows nothing of tensors."""

import io
import sys
import warnings
from importlib import import_module

import click

from pipeline.cli.memory import keep_freed_memory
from pipeline.errors import PipelineError

_COMMANDS = {
    "data": "pipeline.cli.data:data",
    "extract": "pipeline.cli.extract:extract",
    "fit-sparse": "pipeline.cli.fit:fit_sparse",
    "fit-dense": "pipeline.cli.fit:fit_dense",
    "evaluate": "pipeline.cli.evaluate:evaluate",
    "fit-boxes": "pipeline.cli.boxes:fit_boxes",
    "evaluate-boxes": "pipeline.cli.boxes:evaluate_boxes",
    "report": "pipeline.cli.report:report",
    "predict": "pipeline.cli.predict:predict",
    "cache": "pipeline.cli.cache:cache",
}


class _Pipeline(click.Group):
    """Loads a command's module when the command is used, and lists them in working order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(
    cls=_Pipeline,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\n"
    "A first run, from images to a report:\n"
    "  pipeline data scenes  --out data/scenes\n"
    "  pipeline extract      --backbone vgg11 --weights random --dataset data/scenes \\\n"
    "                        --split train --split val --out cache/scenes\n"
    "  pipeline fit-sparse   --cache cache/scenes --out sparse.safetensors\n"
    "  pipeline fit-dense    --cache cache/scenes --init sparse.safetensors \\\n"
    "                        --out dense.safetensors\n"
    "  pipeline evaluate     --cache cache/scenes --split val --head dense.safetensors \\\n"
    "                        --out metrics.json\n"
    "  pipeline report       --cache cache/scenes --head dense=dense.safetensors \\\n"
    "                        --metrics dense=metrics.json --out report",
)
@click.version_option(package_name="hypercolumn-pipeline", prog_name="pipeline")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Semantic segmentation with hypercolumns from a cache of frozen features.

    Commands read params.yaml in the current folder, where there is one, for what their options
    leave out.
    """
    del debug  # main() looks for it: errors are caught there


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    A mistake of the user's is one line on stderr and exit code 1; wrong usage of a command exits
    with 2, Ctrl-C with 130.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    keep_freed_memory()
    warnings.filterwarnings("ignore", module="PIL")  # its limits are stricter in pipeline.data
    # The name of a folder need not be text, and is to be printed nevertheless.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(arguments, prog_name="pipeline", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; what was finished is kept", err=True)
        return 130
    except (PipelineError, OSError) as error:
        if "--debug" in arguments:
            raise
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        return 1

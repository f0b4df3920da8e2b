"""`python -m opkit.training.parallel --processes N SCRIPT ARGUMENTS...`: see `run_processes`."""

import argparse
import sys

from .launcher import ProcessError, run_processes


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m opkit.training.parallel", description=run_processes.__doc__)
    parser.add_argument("--processes", type=int, required=True, help="how many")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a script and its arguments, or -m and a module")
    options = parser.parse_args()
    try:
        run_processes(options.command, options.processes)
    except ProcessError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.code) from error
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

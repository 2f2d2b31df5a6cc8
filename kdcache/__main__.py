"""`kdcache`, and `python -m kdcache`."""

import sys


def main() -> None:
    """Runs the command line. It is imported here, since Ctrl-C would end that import in a traceback."""
    try:
        from kdcache import cli
    except KeyboardInterrupt:
        sys.stderr.write("kdcache: interrupted\n")
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()

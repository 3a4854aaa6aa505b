"""``python -m kappamask_stream`` is the console script."""

from kappamask_stream.cli import main

main()

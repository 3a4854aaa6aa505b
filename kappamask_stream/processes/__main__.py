"""A child process: ``python -m kappamask_stream.processes``. Only `mask_in_processes` starts it."""

from kappamask_stream.processes.child import main

main()

"""The commands of `python -m lab`, one file each: its arguments in `add`, its work in `run`."""

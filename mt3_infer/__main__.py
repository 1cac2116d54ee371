"""`python -m mt3_infer`, the same as the command `mt3-infer`."""

from mt3_infer.cli import main

main(prog_name="mt3-infer")

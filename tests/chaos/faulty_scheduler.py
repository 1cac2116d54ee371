"""`python -m tests.chaos.faulty_scheduler`: the scheduler, with the faults of `tests.chaos.faults`."""

from tests.chaos import faults

faults.plant("scheduler")

from worker.scheduler import main  # noqa: E402

if __name__ == "__main__":
    main()

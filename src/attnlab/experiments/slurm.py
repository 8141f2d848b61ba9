"""Jobs of Slurm: one that dies does not take the results of the others with it, and Ctrl-C ends them."""

import subprocess

from hydra.core.utils import JobReturn, JobStatus
from submitit.core.utils import FailedJobError, UncompletedJobError
from submitit.slurm import slurm

from attnlab.errors import first_line
from attnlab.experiments.pool import Died

_waited_for: set["Job"] = set()


class Job(slurm.SlurmJob[JobReturn]):
    """Returns that it died, where submitit's own raises and the results of the other jobs are lost."""

    def results(self) -> list[JobReturn]:
        _waited_for.add(self)
        try:
            return super().results()
        except (FailedJobError, UncompletedJobError) as error:
            return [JobReturn(status=JobStatus.FAILED, _return_value=Died(first_line(error)))]
        except KeyboardInterrupt:
            interrupt()
            raise
        finally:
            _waited_for.discard(self)


def interrupt() -> None:
    """Hand Ctrl-C to the jobs that this process waits for; those that Slurm has not started yet leave its queue.

    Of a sweep one job is waited for, and its number is that of the whole array. `scancel` would send SIGTERM by
    default, after which the job requeues itself.
    """
    for number in {job.job_id.split("_")[0] for job in _waited_for.copy()}:
        for what in ("--state=PENDING", "--signal=INT"):
            subprocess.run(["scancel", what, number], check=False)


def use_these_jobs() -> None:
    """Make submitit use `Job`: it looks up a job of an array in its module, a single one in its executor."""
    slurm.SlurmJob = Job  # type: ignore[assignment,misc]
    slurm.SlurmExecutor.job_class = Job

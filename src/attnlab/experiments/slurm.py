"""What submitit makes of jobs of Slurm: one that died takes no other one's result along, and Ctrl-C ends them."""

import subprocess

from hydra.core.utils import JobReturn, JobStatus
from submitit.core.utils import FailedJobError, UncompletedJobError
from submitit.slurm import slurm

from attnlab.errors import first_line
from attnlab.experiments.pool import Died

_waited_for: set["Job"] = set()


class Job(slurm.SlurmJob[JobReturn]):
    """Says that it has died where submitit's raises, and takes the results of the others along."""

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
    """Hand Ctrl-C to the jobs that this process waits for; those that Slurm has not begun yet leave its queue.

    Of a sweep one job is waited for, and its number is that of the whole array. SIGTERM, which `scancel` sends by
    itself, would have the job put into the queue again.
    """
    for number in {job.job_id.split("_")[0] for job in _waited_for.copy()}:
        for what in ("--state=PENDING", "--signal=INT"):
            subprocess.run(["scancel", what, number], check=False)


def use_these_jobs() -> None:
    """Have submitit make them: an array's by the name in its module, one alone by the attribute of its executor."""
    slurm.SlurmJob = Job  # type: ignore[assignment,misc]
    slurm.SlurmExecutor.job_class = Job

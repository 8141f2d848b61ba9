"""What submitit makes of jobs of Slurm: one that died takes no other one's result along."""

from hydra.core.utils import JobReturn, JobStatus
from submitit.core.utils import FailedJobError, UncompletedJobError
from submitit.slurm import slurm

from attnlab.errors import first_line
from attnlab.search.workers import Died


class Job(slurm.SlurmJob[JobReturn]):
    """Says that it has died where submitit's raises, and takes the results of the others along."""

    def results(self) -> list[JobReturn]:
        try:
            return super().results()
        except (FailedJobError, UncompletedJobError) as error:
            return [JobReturn(status=JobStatus.FAILED, _return_value=Died(first_line(error)))]


def use_these_jobs() -> None:
    """Have submitit make them: an array's by the name in its module, one alone by the attribute of its executor."""
    slurm.SlurmJob = Job  # type: ignore[assignment,misc]
    slurm.SlurmExecutor.job_class = Job

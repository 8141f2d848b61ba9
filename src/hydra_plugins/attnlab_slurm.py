"""The launcher of `hydra/launcher=slurm`. Hydra imports this file at every start: nothing heavy here."""

from collections.abc import Sequence
from contextlib import suppress

from hydra.core.utils import JobReturn

with suppress(ImportError):  # without the extra "slurm"
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

    class WatchedSlurmLauncher(SlurmLauncher):
        """submitit's, with the table of a sweep; a job that dies costs no other one's result."""

        def slots(self, n_jobs: int) -> int:
            """How many trials run at once of a search that asks for `n_jobs`; -1: as many as jobs of an array."""
            return n_jobs if n_jobs > 0 else int(self.params["array_parallelism"])

        def interrupt(self) -> None:
            """Hand Ctrl-C to Slurm's jobs."""
            from attnlab.experiments.slurm import interrupt

            interrupt()

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            from attnlab.experiments.board import watching
            from attnlab.experiments.slurm import use_these_jobs

            assert self.config is not None and self.hydra_context is not None
            use_these_jobs()
            with watching(self.config, self.hydra_context.config_loader, job_overrides, initial_job_idx):
                return super().launch(job_overrides, initial_job_idx)

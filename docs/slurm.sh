#!/bin/bash
#SBATCH --ntasks-per-node=1 --requeue --open-mode=append
#SBATCH --time=4:00:00 --signal=TERM@120
srun -K python src/train.py "$@"
status=$?
if [ $status = 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $status

#!/bin/bash
# A Slurm of two nodes on this machine, with accounting: `slurm.sh up <folder>` and `slurm.sh down <folder>`, as root.
# Afterwards: export SLURM_CONF=<folder>/slurm.conf. Debian's packages: slurm-wlm munge slurmdbd mariadb-server.
set -eu
dir=$2 host=$(hostname -s)

daemon() {  # <name> <command>: in the background, its output in a file, its id for `down`
  setsid "${@:2}" >>"$dir/$1.log" 2>&1 </dev/null &
  echo $! >>"$dir/pids"
}

up() {
  mkdir -p "$dir"/{state,mysql}
  grep -q "n1 n2" /etc/hosts || echo "127.0.0.1 n1 n2" >>/etc/hosts  # torch looks up a node's name
  [ -e /etc/munge/munge.key ] || mungekey -c
  mkdir -p /run/munge && chown munge: /run/munge
  munge -n >/dev/null 2>&1 || su -s /bin/sh munge -c munged
  chmod a+x "$dir" && chown mysql: "$dir/mysql"
  mariadb-install-db --user=mysql --datadir="$dir/mysql" --auth-root-authentication-method=normal >"$dir/install.log" 2>&1
  daemon mariadb mariadbd --no-defaults --user=mysql --datadir="$dir/mysql" --socket="$dir/mysql/socket" --skip-networking
  for _ in $(seq 60); do mariadb-admin --no-defaults -S "$dir/mysql/socket" ping >/dev/null 2>&1 && break; sleep 0.5; done
  mariadb --no-defaults -S "$dir/mysql/socket" -e "create database slurm; create user slurm identified by 'slurm';
    grant all on slurm.* to slurm; create user slurm@localhost identified by 'slurm'; grant all on slurm.* to slurm@localhost"

  cat >"$dir/slurmdbd.conf" <<END
AuthType=auth/munge
DbdHost=localhost
DbdPort=16819
SlurmUser=root
LogFile=$dir/slurmdbd.log
PidFile=$dir/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
END
  chmod 600 "$dir/slurmdbd.conf"
  cat >"$dir/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=16819
SlurmdParameters=config_overrides
KillWait=20
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=8000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=8000
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
END
  # slurmdbd reads its settings beside slurm.conf. It finds the database's socket by MYSQL_UNIX_PORT.
  export SLURM_CONF=$dir/slurm.conf MYSQL_UNIX_PORT=$dir/mysql/socket
  daemon slurmdbd slurmdbd -D
  for _ in $(seq 60); do sacctmgr -n show cluster >/dev/null 2>&1 && break; sleep 0.5; done
  sacctmgr -i add cluster test >/dev/null 2>&1 || true
  daemon slurmctld slurmctld -D
  daemon slurmd-n1 slurmd -D -N n1
  daemon slurmd-n2 slurmd -D -N n2
  for _ in $(seq 60); do [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = 2 ] && return; sleep 0.5; done
  tail -n 5 "$dir"/*.log >&2
  exit 1
}

down() {
  SLURM_CONF=$dir/slurm.conf scancel --user=root 2>/dev/null || true
  tac "$dir/pids" | xargs -r kill 2>/dev/null || true
  sed -i '/^127.0.0.1 n1 n2$/d' /etc/hosts 2>/dev/null || true
}

"$1"

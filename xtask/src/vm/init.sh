#!/bin/busybox sh
# The first process of a test machine: mounts what programs expect, runs the task, says how it ended, switches off.
/bin/busybox --install -s /bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns
# Whatever a program asks for is here already, or nowhere.
echo /bin/true > /proc/sys/kernel/modprobe
for module in /modules/*.ko; do
    insmod "$module" 2>/dev/null
done
ip link set lo up
echo 1 > /proc/sys/kernel/panic
echo 1 > /proc/sys/net/core/bpf_jit_enable
ulimit -n 1048576
. /init.env
echo "nodemesh-vm: up $(uname -r)"
for word in $(cat /proc/cmdline); do
    case "$word" in
        nodemesh.task=*) task="${word#nodemesh.task=}" ;;
        nodemesh.filter=*) filter="${word#nodemesh.filter=}" ;;
    esac
done
case "$task" in
    tests)
        # One at a time, as everywhere; the heaviest would only measure the emulation.
        NODEMESH_AGENT="$AGENT" NODEMESH_PATIENCE=10 "$TESTS" --test-threads=1 --skip sustained --skip harness $filter
        result=$?
        ;;
    refusal)
        mkdir -p /tmp/config
        "$AGENT" check
        "$AGENT" run --config /tmp/config --node vm
        result=$?
        ;;
    *)
        echo "no task"
        result=99
        ;;
esac
echo "nodemesh-vm: end $result"
sync
echo b > /proc/sysrq-trigger
sleep 60

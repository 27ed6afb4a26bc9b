#!/bin/busybox sh
# The first process of a test machine: mounts what programs expect, runs the task, says how it ended, switches off.
# The kernel speaks on the first console, we on the second: neither breaks into a line of the other.
/bin/busybox --install -s /bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec >/dev/ttyS1 2>&1
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
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
. /task.env
echo "nodemesh-vm: up $(uname -r)"
case "$TASK" in
    tests)
        result=0
        # One at a time, as everywhere; each in a process of its own, so that one that hangs takes no other along.
        while read -r name <&3; do
            echo "nodemesh-vm: begin $name"
            NODEMESH_AGENT="$AGENT" NODEMESH_PATIENCE="$PATIENCE" NODEMESH_LOAD_DIVISOR="$DIVISOR" \
                timeout -k 30 "$LIMIT" "$TESTS" --test-threads=1 --exact "$name"
            code=$?
            echo "nodemesh-vm: done $code $name"
            [ "$code" = 0 ] || result=1
        done 3< /tests.list
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
# What is written to a console is on its way still.
sleep 1
echo b > /proc/sysrq-trigger
sleep 60

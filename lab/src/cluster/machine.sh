# The first process of a node's machine: containerd and kubelet in a pid, mount and cgroup namespace of their own.
# Called twice, as `machine.sh cgroups` and, by itself in the cgroup namespace, as `machine.sh run`; variables come
# from machine.rs. It dies by SIGKILL only, and the kernel takes every process of the namespace with it.
set -eu

if [ "$1" = cgroups ]; then
    # What a machine makes lies below one directory per hierarchy, so that it can be found and removed.
    for directory in $CGROUPS; do
        mkdir -p "$directory"
        # A new cpuset accepts nobody until it has been given processors and memory.
        for file in cpuset.cpus cpuset.mems; do
            if [ -e "$directory/$file" ] && [ ! -s "$directory/$file" -o -z "$(cat "$directory/$file")" ]; then
                cat "${directory%/*}/$file" > "$directory/$file" 2>/dev/null || true
            fi
        done
        echo 0 > "$directory/cgroup.procs"
    done
    exec unshare --cgroup -- sh "$0" run
fi

# The same hierarchies again, now with our directories as their roots.
mount --make-rprivate /
# (The host's mounts are listed too, below the /sys of the node that hides them.)
mounts=$(grep ' /sys/fs/cgroup.* cgroup2\? ' /proc/mounts | sort --unique --key=2,2)
umount --recursive /sys/fs/cgroup
case $mounts in
*' cgroup '*)
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    echo "$mounts" | while read -r _ target type options _; do
        mkdir -p "$target"
        controllers=$(echo "$options" | tr , '\n' | grep -v -e '^r[ow]$' -e '^no' -e '^relatime$' -e '^xattr$' \
            -e '^release_agent' -e '^memory_' | paste -sd,)
        mount -t "$type" ${controllers:+-o "$controllers"} cgroup "$target"
    done
    ;;
*)
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # A cgroup that has processes may not hand out controllers: the machine's own processes move into a leaf.
    mkdir -p /sys/fs/cgroup/init
    echo 0 > /sys/fs/cgroup/init/cgroup.procs
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control || true
    done
    ;;
esac
# kubelet sets these for the whole kernel, which is the host's. It gets copies to set.
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
    kernel/keys/root_maxbytes; do
    copy=/run/sysctl/$name
    mkdir -p "${copy%/*}"
    cat "/proc/sys/$name" > "$copy"
    mount --bind "$copy" "/proc/sys/$name"
done

# Volumes that are mounted in pods' directories must be seen by their containers.
mount --make-rshared /

# Both are started again when they end, as a service manager would.
(while :; do
    containerd --config "$CONFIG/containerd.toml" || true
    sleep 1
done) > "$LOG/containerd.log" 2>&1 &

until [ -S /run/containerd/containerd.sock ]; do sleep 0.1; done

(while :; do
    "$KUBELET" --config="$CONFIG/kubelet.yaml" --kubeconfig="$KUBECONFIG" --hostname-override="$NODE" \
        --node-ip="$ADDRESS" || true
    sleep 1
done) > "$LOG/kubelet.log" 2>&1 &

# The first process of a pid namespace inherits all orphans; waiting reaps them.
while :; do wait || true; done

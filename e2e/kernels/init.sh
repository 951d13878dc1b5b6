#!/busybox sh
# The first process of the virtual machine: this machine's root file system, read-only, below one in memory.
b=/busybox
$b mkdir -p /proc /shared /memory /root
$b mount -t proc proc /proc
word() { $b tr ' ' '\n' </proc/cmdline | $b sed -n "s/^srcip\.$1=//p"; }
for module in $($b cat /order); do $b insmod "/$module"; done
$b mount -t virtiofs -o ro shared /shared &&
    $b mount -t tmpfs memory /memory && $b mkdir /memory/upper /memory/work &&
    $b mount -t overlay -o lowerdir=/shared,upperdir=/memory/upper,workdir=/memory/work overlay /root || $b poweroff -f
$b mkdir -p "/root/lib/modules/$($b uname -r)"
$b mount --bind "/root$(word modules)" "/root/lib/modules/$($b uname -r)"
$b mount -t proc proc /root/proc
$b mount -t sysfs sysfs /root/sys
$b mount -t devtmpfs devtmpfs /root/dev
$b mkdir -p /root/dev/pts /root/dev/shm
$b mount -t devpts devpts /root/dev/pts
$b mount -t tmpfs shm /root/dev/shm
$b mount -t tmpfs run /root/run
$b mount -t cgroup2 cgroup /root/sys/fs/cgroup
$b mount -t bpf bpf /root/sys/fs/bpf
$b ip link set lo up
# Itself, not by a child: the kernel looks for modprobe where its first process has its root.
exec $b chroot /root /bin/sh "$(word script)"

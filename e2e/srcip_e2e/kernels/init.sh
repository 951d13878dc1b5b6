#!/busybox sh
# The first process of the virtual machine: this machine's root file system, read-only, below one in memory.
b=/busybox
$b mkdir -p /proc /shared /memory /root
$b mount -t proc proc /proc
word() { $b tr ' ' '\n' </proc/cmdline | $b sed -n "s/^srcip\.$1=//p"; }
for module in $($b cat /order); do $b insmod "/$module"; done
$b mount -t virtiofs -o ro shared /shared && $b mount -t tmpfs memory /memory || $b poweroff -f
modules=usr/lib/modules/$($b uname -r)
# These are there from the beginning: before Linux 6.0 an overlay can't copy a directory that comes by virtiofs.
$b mkdir -p "/memory/upper/$modules" /memory/upper/usr/local/lib /memory/upper/tmp /memory/work
$b chmod 1777 /memory/upper/tmp
$b mount -t overlay -o lowerdir=/shared,upperdir=/memory/upper,workdir=/memory/work overlay /root || $b poweroff -f
$b mount --bind "/shared$(word modules)" "/root/$modules"
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

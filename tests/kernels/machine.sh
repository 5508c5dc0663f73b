# Fetching a kernel, and what a virtual machine is started with.
# Sourced with $work (folder for what is fetched) and $machine (folder for this machine) set.

# Unpacks a Debian package into a folder, without installing it, and prints the folder.
unpacked() {
    local package=$1 folder="$work/packages/$1"
    if [ ! -e "$folder/.whole" ]; then
        rm -rf "$folder"
        mkdir -p "$folder"
        (cd "$folder" && apt-get download "$package" >&2 && dpkg-deb -x ./*.deb . && rm ./*.deb && touch .whole)
    fi
    printf '%s\n' "$folder"
}

# linux-image-amd64 stands for the newest linux-image-6.1.0-NUMBER-amd64.
the_package_meant() {
    local stands_for
    stands_for=$(apt-cache depends --no-recommends --no-suggests "$1" | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -n 1)
    printf '%s\n' "${stands_for:-$1}"
}

# What has to be loaded before anything can be mounted, in order.
modules_in_order() {
    local folder=$1 release=$2 module
    [ -e "$folder/lib/modules/$release/modules.dep" ] || depmod -b "$folder" "$release"
    for module in virtio_pci virtio_blk virtio_rng 9pnet_virtio 9p overlay ext4; do
        modprobe --quiet --dirname "$folder" --set-version "$release" --show-depends "$module" | sed -n 's/^insmod //p'
    done | awk '!seen[$1]++ { print $1 }'
}

# Finds the kernel that is meant, by package or file: sets $title, $image and, for a package, $kernel_folder.
find_kernel() {
    if [ -f "$1" ]; then
        image=$1
        title=$(basename "$1")
        kernel_folder=
    else
        title=$(the_package_meant "$1")
        kernel_folder=$(unpacked "$title")
        image=$(echo "$kernel_folder"/boot/vmlinuz-*)
    fi
}

# Makes $machine/initramfs.cpio: busybox, the modules that are needed, and init.
make_initramfs() {
    local busybox count=0 module place
    mkdir -p "$machine/initramfs/modules" "$machine/initramfs/bin"
    if [ -n "$kernel_folder" ]; then
        while read -r module; do
            count=$((count + 1))
            place=$(printf '%s/initramfs/modules/%02d-%s.ko' "$machine" "$count" "$(basename "${module%%.ko*}")")
            # Compressed modules are unpacked: busybox loads plain ones.
            case $module in
                *.xz) xz --decompress --stdout "$module" > "$place" ;;
                *) cp "$module" "$place" ;;
            esac
        done < <(modules_in_order "$kernel_folder" "${image##*/vmlinuz-}")
    fi
    busybox=$(unpacked busybox-static)
    cp "$busybox/bin/busybox" "$machine/initramfs/bin/busybox"
    install -m 755 "$here/init" "$machine/initramfs/init"
    (cd "$machine/initramfs" && find . | cpio --quiet -o -H newc) > "$machine/initramfs.cpio"
}

# Starts the machine: kernel's command line, then further arguments for qemu. What it writes to /dev/ttyS1 is shown.
start_machine() {
    local cmdline=$1 processor
    shift
    # A /dev/kvm on a processor without virtualisation is a paravirtual one, which Debian's kernels do not start under.
    if [ -w /dev/kvm ] && grep -q -w -E 'vmx|svm' /proc/cpuinfo; then
        processor=(-enable-kvm -cpu host)
    else
        processor=(-accel tcg,thread=multi,tb-size=1024 -cpu max,la57=off)
        echo "the processor is emulated"
    fi
    qemu-system-x86_64 "${processor[@]}" -smp "${KERNEL_CPUS:-2}" -m "${KERNEL_MEMORY:-6G}" -nodefaults -no-reboot -display none \
        -kernel "$image" -initrd "$machine/initramfs.cpio" \
        -append "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off $cmdline ${KERNEL_CMDLINE-}" \
        -serial "file:$machine/out/console" -serial stdio \
        -device virtio-rng-pci \
        -drive "file=$machine/disk,format=raw,if=virtio,cache=unsafe" \
        "$@" </dev/null
}

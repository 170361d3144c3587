//! What perf saw, sorted by the kind of work.
//!
//! A sample is one moment of one core: the program that ran and the function it was in. The kernel's clock
//! interrupt cannot come while interrupts are off; such time shows in the function that lets them in again, which
//! for a wake-up is `_raw_spin_unlock_irqrestore` and for a switch `finish_task_switch`.

use std::collections::BTreeMap;

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    Cipher,
    Ours,
    Copies,
    WakeUps,
    Bridge,
    Stack,
    Endpoints,
    Other,
    /// Nothing to do. Not part of the table.
    Idle,
    /// A program that does not belong to the test. Not part of the table.
    Foreign,
}

impl Work {
    /// Those of the table.
    pub(super) const SHOWN: [Self; 8] = [
        Self::Cipher,
        Self::Ours,
        Self::Copies,
        Self::WakeUps,
        Self::Bridge,
        Self::Stack,
        Self::Endpoints,
        Self::Other,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Cipher => "cipher",
            Self::Ours => "our code: cutting, merging, checksums, forwarding",
            Self::Copies => "system calls and copies of the daemons",
            Self::WakeUps => "wake-ups and scheduling",
            Self::Bridge => "bridge, veth and TAP",
            Self::Stack => "network stack and its buffers",
            Self::Endpoints => "endpoints: traffic programs, their system calls, TCP",
            Self::Other => "other",
            Self::Idle => "idle",
            Self::Foreign => "other programs",
        }
    }
}

/// One sample.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sample<'a> {
    pub(super) program: &'a str,
    pub(super) process: u32,
    pub(super) symbol: &'a str,
    /// Where the function is from: a file, or a name in brackets for the kernel.
    pub(super) origin: &'a str,
}

impl<'a> Sample<'a> {
    /// From a line of `perf script -F comm,pid,ip,sym,dso`:
    /// `  iperf3  1234   ffffffff81afd399 tcp_ack ([kernel.kallsyms])`. A program's name may have blanks.
    pub(super) fn read(line: &'a str) -> Option<Self> {
        let (rest, origin) = line.trim_end().strip_suffix(')')?.rsplit_once(" (")?;
        let rest = rest.trim_start();
        let mut from = 0;
        loop {
            // The first number that an address follows is the process.
            let gap = from + rest[from..].find(char::is_whitespace)?;
            let next = gap + rest[gap..].find(|c: char| !c.is_whitespace())?;
            let mut words = rest[next..].splitn(2, char::is_whitespace);
            let process = words.next().and_then(|word| word.parse().ok());
            if let (Some(process), Some(after)) = (process, words.next()) {
                let after = after.trim_start();
                let (address, symbol) = after.split_once(' ').unwrap_or((after, ""));
                if address.len() >= 6 && address.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Some(Self {
                        program: rest[..gap].trim_end(),
                        process,
                        symbol: symbol.trim(),
                        origin,
                    });
                }
            }
            from = next;
        }
    }

    fn is_kernel(&self) -> bool {
        self.origin.starts_with('[') && self.origin != "[vdso]"
    }

    /// The kind of work. `ours` tells which processes belong to the test; `daemon` is the file name of
    /// the measured binary.
    pub(super) fn work(&self, ours: &dyn Fn(u32) -> bool, daemon: &str) -> Work {
        let endpoint = ENDPOINTS.contains(&self.program);
        let core_thread = self.process == 0 || self.program.starts_with("ksoftirqd");
        if self.is_kernel() {
            if self.process == 0 && begins(self.symbol, IDLE) {
                return Work::Idle;
            }
            if !core_thread && !ours(self.process) {
                return Work::Foreign;
            }
            return kernel_work(self.symbol, endpoint);
        }
        let file = self.origin.rsplit('/').next().unwrap_or_default();
        match () {
            () if !ours(self.process) => Work::Foreign,
            () if endpoint => Work::Endpoints,
            () if has(self.symbol, COPIES_USER) => Work::Copies,
            () if file == daemon && has(self.symbol, CIPHER) => Work::Cipher,
            () if file == daemon => Work::Ours,
            // The C library, whose part is to make system calls.
            () => Work::Copies,
        }
    }
}

fn begins(symbol: &str, words: &[&str]) -> bool {
    let symbol = symbol.trim_start_matches('_');
    words.iter().any(|word| symbol.starts_with(word))
}

fn has(symbol: &str, words: &[&str]) -> bool {
    words.iter().any(|word| symbol.contains(word))
}

/// Sorts a function of the kernel. System calls and copies of an endpoint are the endpoint's own work.
fn kernel_work(symbol: &str, endpoint: bool) -> Work {
    if begins(symbol, TCP) {
        Work::Endpoints
    } else if begins(symbol, &["enqueue_to_backlog"]) {
        Work::Stack
    } else if begins(symbol, BRIDGE) {
        Work::Bridge
    } else if begins(symbol, COPIES) {
        if endpoint {
            Work::Endpoints
        } else {
            Work::Copies
        }
    } else if begins(symbol, WAKE_UPS) || has(symbol, &["wake_up", "sched_", "schedule"]) {
        Work::WakeUps
    } else if begins(symbol, STACK) {
        Work::Stack
    } else {
        Work::Other
    }
}

/// The traffic programs: those of TCP, and this tool.
const ENDPOINTS: &[&str] = &["iperf3", "xtask"];

const CIPHER: &[&str] = &[
    "salsa",
    "chacha",
    "poly1305",
    "Poly1305",
    "secretbox",
    "crypto_",
    "nacl",
    "dryoc",
    "subtle",
    "ring::",
    "ring_core",
    // Parts of one function in assembler have names without a prefix.
    "aesni",
    "aes_",
    "gcm",
    "ghash",
];

const COPIES_USER: &[&str] = &["memcpy", "memmove", "memset"];

// The words below are compared with the name of a function without leading underscores.

const IDLE: &[&str] = &[
    "pv_native_safe_halt",
    "native_safe_halt",
    "default_idle",
    "acpi_",
    "cpuidle",
    "do_idle",
    "cpu_idle",
    "cpu_startup_entry",
    "arch_cpu_idle",
    "tick_nohz",
    "intel_idle",
    "mwait_idle",
    "haltpoll",
    "menu_",
    "poll_idle",
    "nohz_",
];

const TCP: &[&str] = &[
    "tcp",
    "mptcp",
    "bictcp",
    "cubictcp",
    "inet_csk",
    "inet_ehash",
    "inet6_",
    "bbr_",
    "minmax_",
];

const BRIDGE: &[&str] = &[
    "br_",
    "veth_",
    "tun_",
    "tap_",
    "virtio_net_hdr",
    "fdb_",
    "ptr_ring",
    "setup_pre_routing",
    "ip_sabotage",
];

const COPIES: &[&str] = &[
    "copy_",
    "rep_movs",
    "rep_stos",
    "memcpy",
    "memmove",
    "memset",
    "clear_page",
    "clear_user",
    "entry_",
    "do_syscall",
    "syscall",
    "x64_sys",
    "sys_",
    "ksys_",
    "vfs_",
    "do_writev",
    "do_readv",
    "do_iter",
    "rw_verify",
    "import_",
    "iov_",
    "check_object_size",
    "check_heap_object",
    "skb_copy_datagram",
    "skb_datagram",
    "simple_copy",
    "fget",
    "fdget",
    "fput",
    "srso",
    "retbleed",
    "exc_page_fault",
    "asm_exc_page_fault",
    "get_user",
    "put_user",
    "move_addr",
    "file_",
    "security_",
    "put_cmsg",
    "x86_indirect_thunk",
    "fsnotify",
    "audit_",
    "virt_addr_valid",
    "check_stack_object",
    "rseq",
];

const WAKE_UPS: &[&str] = &[
    "finish_task_switch",
    "try_to_wake_up",
    "ttwu_",
    "raw_spin_unlock_irq",
    "raw_spin_rq",
    "enqueue_",
    "dequeue_",
    "pick_",
    "put_prev",
    "set_next",
    "update_curr",
    "update_load",
    "update_rq",
    "update_se",
    "update_min",
    "update_cfs",
    "update_entity",
    "update_sd",
    "select_task",
    "select_idle",
    "available_idle",
    "switch_",
    "context_switch",
    "perf_event",
    "place_entity",
    "reweight",
    "check_preempt",
    "resched",
    "wakeup_",
    "avg_vruntime",
    "vruntime",
    "entity_",
    "ep_",
    "do_epoll",
    "eventpoll",
    "do_poll",
    "poll_",
    "sock_poll",
    "udp_poll",
    "datagram_poll",
    "do_sys_poll",
    "hrtimer",
    "hrtick",
    "tick_",
    "ktime_get",
    "futex",
    "smp_call",
    "flush_smp",
    "native_send_call",
    "native_smp_send",
    "native_apic",
    "x2apic",
    "kvm_",
    "pvclock",
    "sysvec_",
    "asm_sysvec",
    "irqentry",
    "irq_exit",
    "irq_enter",
    "prepare_to_wait",
    "finish_wait",
    "add_wait",
    "remove_wait",
    "autoremove",
    "default_wake",
    "psi_",
    "rcu_",
    "cpuacct",
    "cgroup_",
    "sched",
    "do_idle",
    "exit_to_user",
    "restore_fpregs",
    "fpregs",
    "save_fpregs",
    "os_xsave",
    "os_xrstor",
    "native_sched_clock",
    "native_write_msr",
    "read_tsc",
    "timerqueue",
    "rb_",
    "cpumask",
    "min_vruntime",
    "attach_entity",
    "calc_",
    "accumulate",
    "nohz",
    "do_select",
    "core_sys_select",
    "do_pselect",
    "eventfd",
    "pollwait",
    "find_next_bit",
    "call_function_single",
];

const STACK: &[&str] = &[
    "udp",
    "ip_",
    "ip4",
    "ipv4",
    "ip6",
    "ipv6",
    "inet_",
    "fib_",
    "rt_",
    "dst_",
    "neigh",
    "eth_",
    "dev_",
    "netdev",
    "netif",
    "net_",
    "netns",
    "napi",
    "process_backlog",
    "gro_",
    "gso",
    "skb",
    "kfree_skb",
    "consume_skb",
    "alloc_skb",
    "build_skb",
    "napi_",
    "sock",
    "sk_",
    "lock_sock",
    "release_sock",
    "sendmsg",
    "recvmsg",
    "handle_softirqs",
    "do_softirq",
    "local_bh",
    "raise_softirq",
    "run_ksoftirqd",
    "kmalloc",
    "kmem_cache",
    "kfree",
    "kvfree",
    "slab",
    "memcg_slab",
    "mod_memcg",
    "mod_objcg",
    "page_frag",
    "page_pool",
    "alloc_pages",
    "alloc_frozen",
    "get_page",
    "free_",
    "put_page",
    "folio",
    "rmqueue",
    "cmalloc_reserve",
    "nf_",
    "ipt_",
    "validate_xmit",
    "sch_direct",
    "qdisc",
    "pfifo",
    "harmonize",
    "csum",
    "checksum",
    "xfrm",
    "flow_dissect",
    "siphash",
    "jhash",
    "hash_",
    "bpf_",
    "packet_",
    "raw_spin_lock",
    "raw_spin_unlock",
    "raw_spin_trylock",
    "raw_read",
    "raw_write",
    "native_queued_spin",
    "lock_",
    "do_csum",
    "crc32",
    "ref_tracker",
    "mem_cgroup",
    "page_counter",
    "refill_",
    "try_charge",
    "list_",
    "nft_",
    "lookup_nulls",
    "nfct",
    "hash_conntrack",
    "reuseport",
    "raw_local_deliver",
    "passthru_features",
    "is_skb_forwardable",
    "raw_callee_save",
    "next_zones",
    "get_pfnblock",
    "put_cpu_partial",
    "rcu_free",
    "htab_",
    "handle_mm",
    "zone_",
];

/// Samples counted by kind and function.
#[derive(Default)]
pub(super) struct Tally {
    works: BTreeMap<Work, BTreeMap<String, u64>>,
}

impl Tally {
    pub(super) fn add(&mut self, work: Work, symbol: &str) {
        let symbols = self.works.entry(work).or_default();
        *symbols.entry(short(symbol)).or_default() += 1;
    }

    pub(super) fn of(&self, work: Work) -> u64 {
        self.works.get(&work).map_or(0, |s| s.values().sum())
    }

    /// Samples of the test that are not idle.
    pub(super) fn busy(&self) -> u64 {
        Work::SHOWN.into_iter().map(|work| self.of(work)).sum()
    }

    /// The functions with most samples, and how many.
    pub(super) fn largest(&self, work: Work, count: usize) -> Vec<(&str, u64)> {
        let symbols = self.works.get(&work).into_iter().flatten();
        let mut symbols: Vec<(&str, u64)> = symbols.map(|(s, n)| (s.as_str(), *n)).collect();
        symbols.sort_by_key(|(symbol, samples)| (std::cmp::Reverse(*samples), *symbol));
        symbols.truncate(count);
        symbols
    }
}

/// A function's name without what only the compiler needs: hashes, generic arguments, clones.
fn short(symbol: &str) -> String {
    let symbol = symbol.split("::h").next().unwrap_or(symbol);
    let symbol = symbol.split(".llvm").next().unwrap_or(symbol);
    match symbol {
        "" | "[unknown]" => "unknown".to_owned(),
        long if long.chars().count() > 60 => long.chars().take(57).collect::<String>() + "...",
        fits => fits.to_owned(),
    }
}

#[cfg(test)]
mod tests;

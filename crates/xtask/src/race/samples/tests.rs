//! Lines as perf prints them, and where they belong.

use super::*;

fn work(line: &str) -> Work {
    let sample = Sample::read(line).expect("a sample");
    sample.work(&|process| process == 10 || process == 11, "weft")
}

#[test]
fn a_line_of_perf_is_read() {
    let line = "         iperf3  1234  ffffffff81afd399 tcp_ack ([kernel.kallsyms])";
    let sample = Sample {
        program: "iperf3",
        process: 1234,
        symbol: "tcp_ack",
        origin: "[kernel.kallsyms]",
    };
    assert_eq!(Sample::read(line), Some(sample));
}

#[test]
fn names_with_blanks_and_numbers_are_read() {
    let line = "  opt 12 cgu  77      7fbd93434a29 <a::B as c::D>::run (x) (/usr/lib/my lib.so)";
    let sample = Sample {
        program: "opt 12 cgu",
        process: 77,
        symbol: "<a::B as c::D>::run (x)",
        origin: "/usr/lib/my lib.so",
    };
    assert_eq!(Sample::read(line), Some(sample));
}

#[test]
fn what_is_no_sample_is_passed_over() {
    for line in [
        "",
        "# a comment",
        "weft 12 (x)",
        "(",
        ")",
        " ()",
        "weft 10 zzzzzz f (weft)",
    ] {
        assert_eq!(Sample::read(line), None, "{line}");
    }
}

#[test]
fn a_function_without_a_name_is_read() {
    let sample = Sample::read(" weft-tx 10 55d0c1a2b3c4 [unknown] (/opt/weft)").unwrap();
    assert_eq!(sample.symbol, "[unknown]");
    let sample = Sample::read(" weft-tx 10 55d0c1a2b3c4  (/opt/weft)").unwrap();
    assert_eq!(sample.symbol, "");
}

#[test]
fn user_code_is_sorted_by_where_it_is_from() {
    let weft = |symbol: &str| work(&format!("weft-tx 10 55d0c1a2b3c4 {symbol} (/opt/weft)"));
    assert_eq!(
        weft("dryoc::poly1305::poly1305_x86_64::hot_loop44"),
        Work::Cipher
    );
    assert_eq!(weft("_aesni_ctr32_ghash_6x"), Work::Cipher);
    assert_eq!(
        weft("overlay::frame::segment::SuperFrame::write"),
        Work::Ours
    );
    assert_eq!(weft("__memmove_avx_unaligned"), Work::Copies);
    assert_eq!(
        work("weft-tx 10 7f00c1a2b3c4 writev (/lib/libc.so.6)"),
        Work::Copies
    );
    assert_eq!(
        work("iperf3 11 7f00c1a2b3c4 write (/lib/libc.so.6)"),
        Work::Endpoints
    );
    assert_eq!(
        work("rustc 12 7f00c1a2b3c4 write (/lib/libc.so.6)"),
        Work::Foreign
    );
}

#[test]
fn the_kernels_work_is_sorted_by_function() {
    let kernel = |program: &str, process: u32, symbol: &str| {
        work(&format!(
            "{program} {process} ffffffff81afd399 {symbol} ([kernel.kallsyms])"
        ))
    };
    for (symbol, expected) in [
        ("_copy_to_iter", Work::Copies),
        ("do_syscall_64", Work::Copies),
        ("finish_task_switch.isra.0", Work::WakeUps),
        ("_raw_spin_unlock_irqrestore", Work::WakeUps),
        ("__wake_up_common", Work::WakeUps),
        ("veth_xmit", Work::Bridge),
        ("__br_forward", Work::Bridge),
        ("tun_get_user", Work::Bridge),
        ("udp_sendmsg", Work::Stack),
        ("enqueue_to_backlog", Work::Stack),
        ("_raw_spin_lock_bh", Work::Stack),
        ("kmem_cache_free", Work::Stack),
        ("tcp_ack", Work::Endpoints),
        ("zap_pte_range", Work::Other),
    ] {
        assert_eq!(kernel("weft-tx", 10, symbol), expected, "{symbol}");
    }
    assert_eq!(kernel("iperf3", 11, "_copy_to_iter"), Work::Endpoints);
    assert_eq!(kernel("swapper", 0, "pv_native_safe_halt"), Work::Idle);
    assert_eq!(kernel("swapper", 0, "ip_rcv"), Work::Stack);
    assert_eq!(kernel("ksoftirqd/1", 20, "ip_rcv"), Work::Stack);
    assert_eq!(kernel("rustc", 12, "ip_rcv"), Work::Foreign);
}

#[test]
fn a_tally_tells_the_largest_functions_by_short_names() {
    let mut tally = Tally::default();
    for symbol in [
        "a::b::h0123456789abcdef",
        "a::b",
        "c",
        "c.llvm.77",
        "c",
        "d",
    ] {
        tally.add(Work::Ours, symbol);
    }
    tally.add(Work::Idle, "halt");
    assert_eq!(tally.largest(Work::Ours, 2), [("c", 3), ("a::b", 2)]);
    assert_eq!((tally.of(Work::Ours), tally.busy()), (6, 6));
    assert!(tally.largest(Work::Cipher, 2).is_empty());
}

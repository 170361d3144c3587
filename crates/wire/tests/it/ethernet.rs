//! Ethernet addresses as text.

use wire::ethernet::MacAddr;

#[test]
fn an_ethernet_address_prints_as_it_is_read() {
    let mac: MacAddr = "0a:bB:00:01:02:ff".parse().unwrap();
    assert_eq!(mac.to_string(), "0a:bb:00:01:02:ff");
}

#[test]
fn malformed_ethernet_addresses_are_refused() {
    for text in [
        "",
        "0a:bb",
        "0a:bb:00:01:02:ff:00",
        "0a:bb:00:01:02:fg",
        "+a:bb:00:01:02:f",
    ] {
        let error = text.parse::<MacAddr>().unwrap_err();
        let expected = format!("invalid MAC address: \"{text}\"");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_local_unicast_address_is_neither_global_nor_multicast() {
    assert_eq!(MacAddr::local_unicast([0xff; 6]).0[0], 0xfe);
    assert_eq!(MacAddr::local_unicast([0; 6]).0[0], 0x02);
}

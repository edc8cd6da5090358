//! Addresses that outbound requests can reach.
//!
//! Decides whether an address is special, and so forbidden unless the operator allows it. Follows the
//! IANA special-purpose address registries (RFC 6890). IPv6 works the other way round: nothing outside
//! `2000::/3` is allocated for global unicast, so all of it is forbidden.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Special IPv4 networks.
const FORBIDDEN_V4: [Ipv4Net; 16] = [
    v4([0, 0, 0, 0], 8),        // this network
    v4([10, 0, 0, 0], 8),       // private
    v4([100, 64, 0, 0], 10),    // carrier-grade NAT
    v4([127, 0, 0, 0], 8),      // loopback
    v4([168, 63, 129, 16], 32), // a cloud's host agent, on an address that looks public
    v4([169, 254, 0, 0], 16),   // link-local, instance metadata
    v4([172, 16, 0, 0], 12),    // private
    v4([192, 0, 0, 0], 24),     // IETF protocol assignments
    v4([192, 0, 2, 0], 24),     // documentation
    v4([192, 88, 99, 0], 24),   // 6to4 relay
    v4([192, 168, 0, 0], 16),   // private
    v4([198, 18, 0, 0], 15),    // benchmarking
    v4([198, 51, 100, 0], 24),  // documentation
    v4([203, 0, 113, 0], 24),   // documentation
    v4([224, 0, 0, 0], 4),      // multicast
    v4([240, 0, 0, 0], 4),      // reserved, broadcast
];

/// The space allocated for global unicast. The relevant networks outside it are `::/8` (unspecified,
/// loopback, IPv4-compatible, `64:ff9b:1::/48`), `100::/64` (discard), `5f00::/16` (segment
/// routing), `fc00::/7` (private, instance metadata at `fd00:ec2::254`), `fe80::/10` (link-local),
/// `fec0::/10` (once site-local) and `ff00::/8` (multicast).
const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0], 3);

/// Special networks within [`GLOBAL_UNICAST`].
const FORBIDDEN_V6: [Ipv6Net; 4] = [
    v6([0x2001, 0, 0], 23),     // IETF protocol assignments, Teredo
    v6([0x2001, 0xdb8, 0], 32), // documentation
    v6([0x2002, 0, 0], 16),     // 6to4, which embeds an IPv4 address
    v6([0x3fff, 0, 0], 20),     // documentation
];

/// Globally reachable exceptions within `2001::/23`.
const REACHABLE_V6: [Ipv6Net; 7] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 1), 128), // port control
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 2), 128), // TURN
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 3), 128), // DNS-SD
    v6([0x2001, 3, 0], 32),                                               // AMT
    v6([0x2001, 4, 0x112], 48),                                           // AS112
    v6([0x2001, 0x20, 0], 28),                                            // ORCHIDv2
    v6([0x2001, 0x30, 0], 28),                                            // remote identification
];

/// NAT64: the last 32 bits are the IPv4 address actually reached (RFC 6052 §2.1).
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0], 96);

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6([a, b, c]: [u16; 3], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// Whether an address is not an ordinary public one. IPv4-mapped and NAT64 addresses are judged by the
/// IPv4 address they embed.
#[must_use]
pub fn is_forbidden(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => FORBIDDEN_V4.iter().any(|net| net.contains(&v4)),
        IpAddr::V6(v6) if NAT64.contains(&v6) => {
            let [.., a, b, c, d] = v6.octets();
            is_forbidden(IpAddr::from([a, b, c, d]))
        }
        IpAddr::V6(v6) => {
            let within = |nets: &[Ipv6Net]| nets.iter().any(|net| net.contains(&v6));
            !GLOBAL_UNICAST.contains(&v6) || within(&FORBIDDEN_V6) && !within(&REACHABLE_V6)
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ipnet::IpNet;
    use proptest::prelude::*;

    /// The networks this module must cover, as the registries write them.
    pub(in super::super) const SPECIAL: &str = "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 \
        172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 \
        198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 255.255.255.255/32 \
        168.63.129.16/32 ::/16 ::/96 ::1/128 64:ff9b:1::/48 64:ff9b::a00:0/104 \
        64:ff9b::7f00:0/104 ::ffff:a00:0/104 ::ffff:7f00:0/104 ::ffff:a9fe:0/112 100::/64 \
        2001::/32 2001:2::/48 2001:10::/28 2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 \
        fd00:ec2::254/128 fe80::/10 fec0::/10 ff00::/8 4000::/2 8000::/1";

    const ORDINARY: &str = "1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 \
        100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15 168.63.129.17 169.253.255.255 \
        169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.88.98.255 \
        192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 \
        198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255 2000:: 2001:1::1 2001:1::2 \
        2001:1::3 2001:3::1 2001:4:112::1 2001:20::1 2001:3f:: 2001:200::1 2001:4860:4860::8888 \
        2003::1 2606:4700:4700::1111 2a00::1 3ffe::1 3fff:1000::1 ::ffff:8.8.8.8 64:ff9b::808:808";

    #[test]
    fn special_network_is_forbidden_from_first_to_last_address() {
        for net in SPECIAL.split_whitespace() {
            let net: IpNet = net.parse().unwrap();
            assert!(is_forbidden(net.network()), "{net}: {}", net.network());
            assert!(is_forbidden(net.broadcast()), "{net}: {}", net.broadcast());
        }
    }

    #[test]
    fn ordinary_addresses_next_to_special_networks_pass() {
        for address in ORDINARY.split_whitespace() {
            assert!(!is_forbidden(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn neighbours_of_reachable_exceptions_are_forbidden() {
        for address in [
            "2001:1::",
            "2001:1::4",
            "2001:4:111::",
            "2001:40::",
            "2001:1ff::",
        ] {
            assert!(is_forbidden(address.parse().unwrap()), "{address}");
        }
    }

    proptest! {
        #[test]
        fn ipv4_address_is_judged_alike_in_every_form(bits: u32) {
            let plain = is_forbidden(Ipv4Addr::from_bits(bits).into());
            let mapped = Ipv4Addr::from_bits(bits).to_ipv6_mapped();
            prop_assert_eq!(is_forbidden(mapped.into()), plain);
            let nat64 = Ipv6Addr::from_bits(0x64_ff9b << 96 | u128::from(bits));
            prop_assert_eq!(is_forbidden(nat64.into()), plain);
        }

        #[test]
        fn ipv4_address_embedded_in_a_tunnel_is_forbidden(bits: u32, rest: u64) {
            let compatible = u128::from(bits);
            let six_to_four = 0x2002 << 112 | u128::from(bits) << 80 | u128::from(rest);
            let teredo = 0x2001_0000 << 96 | u128::from(rest) << 32 | u128::from(!bits);
            for embedded in [compatible, six_to_four, teredo] {
                prop_assert!(is_forbidden(Ipv6Addr::from_bits(embedded).into()));
            }
        }

        #[test]
        fn only_embedded_ipv4_passes_outside_global_unicast(bits: u128) {
            let address = Ipv6Addr::from_bits(bits);
            if bits >> 125 != 1 && !NAT64.contains(&address) && address.to_ipv4_mapped().is_none() {
                prop_assert!(is_forbidden(address.into()));
            }
        }
    }
}

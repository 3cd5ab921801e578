//! inet, cidr, macaddr, macaddr8 as STRING: `inet_send`, `cidr_send`, `macaddr_send`, `macaddr8_send`.
//!
//! The text is that of the server (`inet_net_ntop.c`): an inet of a single host shows no mask, a cidr always does.

use std::fmt::Write as _;

use arrow_array::ArrayRef;
use arrow_schema::DataType;

use super::text::{strings_builder, strings_values};
use super::{ColumnBuilder, Family, Result, Values, WireError, bad};

/// `PGSQL_AF_INET`, `PGSQL_AF_INET6`.
const V4: u8 = 2;
const V6: u8 = 3;

/// `inet` and `cidr`.
#[derive(Clone, Copy)]
pub(crate) struct Inet {
    pub(crate) cidr: bool,
}

impl Inet {
    fn text(self, wire: &[u8]) -> Result<String> {
        let [family, bits, cidr, length, address @ ..] = wire else { return bad("an inet of less than four bytes") };
        if *cidr != u8::from(self.cidr) || usize::from(*length) != address.len() {
            return bad("an inet with a wrong head");
        }
        let (mut text, all) = match (*family, address) {
            (V4, [a, b, c, d]) => (format!("{a}.{b}.{c}.{d}"), 32),
            (V6, address) if address.len() == 16 => (v6_text(address), 128),
            _ => return bad("an inet of an unknown family"),
        };
        if *bits > all {
            return bad("an inet with too long a mask");
        }
        if self.cidr || *bits != all {
            let _ = write!(text, "/{bits}");
        }
        Ok(text)
    }

    fn parse(self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let wrong = || WireError(format!("`{text}` is not an address"));
        let (address, mask) = text.split_once('/').map_or((text, None), |(a, m)| (a, Some(m)));
        let address: std::net::IpAddr = address.parse().map_err(|_| wrong())?;
        let (family, all, octets) = match address {
            std::net::IpAddr::V4(a) => (V4, 32, a.octets().to_vec()),
            std::net::IpAddr::V6(a) => (V6, 128, a.octets().to_vec()),
        };
        let bits: u8 = mask.map_or(Ok(all), str::parse).map_err(|_| wrong())?;
        if bits > all {
            return Err(wrong());
        }
        out.extend_from_slice(&[family, bits, u8::from(self.cidr), u8::try_from(octets.len()).map_err(|_| wrong())?]);
        out.extend_from_slice(&octets);
        Ok(())
    }
}

/// As `inet_net_ntop_ipv6`: the longest run of zeros is left out, the first of equal ones; an embedded IPv4 address shows.
fn v6_text(address: &[u8]) -> String {
    let words: Vec<u16> = address.chunks(2).map(|p| u16::from_be_bytes([p[0], p[1]])).collect();
    let (mut best, mut at) = ((0, 0), 0);
    while at < 8 {
        let run = words[at..].iter().take_while(|w| **w == 0).count();
        if run > best.1 {
            best = (at, run);
        }
        at += run.max(1);
    }
    if best.1 < 2 {
        best = (8, 0);
    }
    let mut text = String::new();
    for i in 0..8 {
        if (best.0..best.0 + best.1).contains(&i) {
            if i == best.0 {
                text.push(':');
            }
            continue;
        }
        if i != 0 {
            text.push(':');
        }
        if i == 6 && best.0 == 0 && (best.1 == 6 || best.1 == 7 && words[7] != 1 || best.1 == 5 && words[5] == 0xffff) {
            let _ = write!(text, "{}.{}.{}.{}", address[12], address[13], address[14], address[15]);
            return text;
        }
        let _ = write!(text, "{:x}", words[i]);
    }
    if best.1 > 0 && best.0 + best.1 == 8 {
        text.push(':');
    }
    text
}

/// `macaddr` (6) and `macaddr8` (8).
#[derive(Clone, Copy)]
pub(crate) struct Mac {
    pub(crate) bytes: usize,
}

impl Mac {
    fn text(self, wire: &[u8]) -> Result<String> {
        if wire.len() != self.bytes {
            return bad(format!("{} bytes instead of {}", wire.len(), self.bytes));
        }
        Ok(wire.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"))
    }

    fn parse(self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let bytes: Option<Vec<u8>> =
            text.split(':').map(|p| (p.len() == 2).then(|| u8::from_str_radix(p, 16).ok()).flatten()).collect();
        match bytes.filter(|b| b.len() == self.bytes) {
            Some(bytes) => out.extend_from_slice(&bytes),
            None => return bad(format!("`{text}` is not a MAC address")),
        }
        Ok(())
    }
}

macro_rules! string_family {
    ($name:ident) => {
        impl Family for $name {
            fn arrow(&self) -> DataType {
                DataType::Utf8
            }

            fn fits(&self, wire: &[u8]) -> Result<bool> {
                self.text(wire).map(|_| true)
            }

            fn builder(&self) -> Box<dyn ColumnBuilder> {
                let own = *self;
                strings_builder(move |wire| own.text(wire).map(Some))
            }

            fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
                let own = *self;
                strings_values(array, move |text, out| own.parse(text, out))
            }

            fn to_text(&self, wire: &[u8]) -> Result<String> {
                self.text(wire)
            }

            fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
                self.parse(text, out)
            }
        }
    };
}
pub(crate) use string_family;

string_family!(Inet);
string_family!(Mac);

//! A map by address: each family by itself, because a key that holds either takes 17 bytes where 4 would do.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ordered: IPv4 first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressMap<V> {
    v4: BTreeMap<Ipv4Addr, V>,
    v6: BTreeMap<Ipv6Addr, V>,
}

impl<V> Default for AddressMap<V> {
    fn default() -> Self {
        Self { v4: BTreeMap::new(), v6: BTreeMap::new() }
    }
}

impl<V> AddressMap<V> {
    pub fn get(&self, address: IpAddr) -> Option<&V> {
        match address {
            IpAddr::V4(v4) => self.v4.get(&v4),
            IpAddr::V6(v6) => self.v6.get(&v6),
        }
    }

    pub fn get_mut(&mut self, address: IpAddr) -> Option<&mut V> {
        match address {
            IpAddr::V4(v4) => self.v4.get_mut(&v4),
            IpAddr::V6(v6) => self.v6.get_mut(&v6),
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.get(address).is_some()
    }

    pub fn insert(&mut self, address: IpAddr, value: V) -> Option<V> {
        match address {
            IpAddr::V4(v4) => self.v4.insert(v4, value),
            IpAddr::V6(v6) => self.v6.insert(v6, value),
        }
    }

    pub fn remove(&mut self, address: IpAddr) -> Option<V> {
        match address {
            IpAddr::V4(v4) => self.v4.remove(&v4),
            IpAddr::V6(v6) => self.v6.remove(&v6),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &V)> {
        let v4 = self.v4.iter().map(|(address, value)| (IpAddr::V4(*address), value));
        v4.chain(self.v6.iter().map(|(address, value)| (IpAddr::V6(*address), value)))
    }

    pub fn keys(&self) -> impl Iterator<Item = IpAddr> {
        self.iter().map(|(address, _)| address)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.v4.values().chain(self.v6.values())
    }

    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// How many are of one family.
    pub fn len_of(&self, v4: bool) -> usize {
        if v4 { self.v4.len() } else { self.v6.len() }
    }
}

impl<V> FromIterator<(IpAddr, V)> for AddressMap<V> {
    fn from_iter<I: IntoIterator<Item = (IpAddr, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (address, value) in entries {
            map.insert(address, value);
        }
        map
    }
}

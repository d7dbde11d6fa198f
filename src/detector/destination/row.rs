//! A destination as the table keeps it: its bytes in a snapshot, and its lists.

use super::{DEVICES, Destination, DestinationLists, Extra, Overflow};
use crate::detector::distinct::{Recent, Seen};
use crate::detector::sketch::Panes;
use crate::detector::slab::{Moved, Row};
use crate::detector::timers::Armed;
use crate::detector::wire::{Get, Put, WireError};

impl Row for Destination {
    type Lists = DestinationLists;

    fn encode(&self, lists: &DestinationLists, out: &mut Vec<u8>) {
        out.put_u32(self.tenant);
        out.put_str(&lists.addresses.text(self.address));
        let (devices, urls) = (self.devices.all(&lists.devices), self.urls.all(&lists.urls));
        out.put_u32(devices.len() as u32);
        for device in devices {
            out.put_u64(lists.prints.get(device.key()));
            out.put_ticks(device.last());
        }
        out.put_u32(urls.len() as u32);
        for url in urls {
            out.put_u32(url.key());
            out.put_ticks(url.last());
        }
        match self.overflow() {
            None => out.put_u8(0),
            Some(overflow) => {
                out.put_u8(1 + u8::from(overflow.panes.is_some()));
                out.put_ticks(overflow.url_dropped);
                if let Some(panes) = &overflow.panes {
                    panes.encode(out);
                }
            }
        }
    }

    fn decode(bytes: &mut Get<'_>, id: u32, lists: &mut DestinationLists) -> Result<Self, WireError> {
        let (tenant, address) = (bytes.u32()?, lists.addresses.keep(bytes.str()?));
        let n = bytes.count(16)?;
        let prints = &mut lists.prints;
        let devices = (0..n).map(|_| Ok(Seen::new(prints.intern(bytes.u64()?), bytes.ticks()?))).collect::<Result<Vec<_>, WireError>>()?;
        let n = bytes.count(12)?;
        let urls = (0..n).map(|_| Ok(Seen::new(bytes.u32()?, bytes.ticks()?))).collect::<Result<Vec<_>, WireError>>()?;
        let overflow = match bytes.u8()? {
            0 => None,
            kind @ (1 | 2) => {
                let url_dropped = bytes.ticks()?;
                let panes = if kind == 2 { Some(Panes::decode(bytes)?) } else { None };
                Some(Overflow { panes, url_dropped })
            }
            _ => return Err(WireError::Invalid("overflow kind")),
        };
        Ok(Destination {
            tenant,
            address,
            devices: Recent::from_rows(&devices, &mut lists.devices, id),
            urls: Recent::from_rows(&urls, &mut lists.urls, id),
            extra: overflow.map(|overflow| Box::new(Extra { overflow: Some(overflow), watched: None })),
            timer: Armed::NEVER,
        })
    }

    fn free(&mut self, lists: &mut DestinationLists) {
        self.devices.all(&lists.devices).iter().for_each(|seen| lists.prints.release(seen.key()));
        self.devices.free(&mut lists.devices);
        self.urls.free(&mut lists.urls);
        lists.addresses.release(self.address);
    }

    fn follow(&mut self, list: u8, moved: Moved) {
        if list == DEVICES { self.devices.follow(moved) } else { self.urls.follow(moved) }
    }
}

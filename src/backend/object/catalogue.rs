//! [`Catalogue`]: which objects there are, and the parts that make them.
//!
//! ```text
//! caskad-catalogue 1 HASH\n        HASH: BLAKE3 of all that follows, in hex
//! { "owner", "host", "epoch", "revision", "part_bytes", "objects": { NAME: { "writer", "parts" } }, "waste": [ … ] }
//! ```
//!
//! Parts are listed in runs, `[LEN, EPOCH, WRITER, COUNT]`: a full pack of 32 equal parts is one of them.

use std::collections::BTreeMap;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::hash::Hash;

const FORMAT: &str = "caskad-catalogue 1 ";

/// Most bytes of a catalogue that is read: some million packs.
pub(super) const CATALOGUE_BYTES: u64 = 256 << 20;

/// Most parts of an object.
const PARTS: u64 = 4 << 20;

/// Most bytes of a part that is listed.
const PART_BYTES: u32 = 1 << 30;

/// Who wrote a part: with its object and offset, its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct PartId {
    pub(super) epoch: u64,
    pub(super) writer: u32,
}

/// `count` parts of `len` bytes each, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u64, u32, u32)", into = "(u32, u64, u32, u32)")]
pub(super) struct Run {
    pub(super) len: u32,
    pub(super) id: PartId,
    pub(super) count: u32,
}

impl From<(u32, u64, u32, u32)> for Run {
    fn from((len, epoch, writer, count): (u32, u64, u32, u32)) -> Run {
        Run { len, id: PartId { epoch, writer }, count }
    }
}

impl From<Run> for (u32, u64, u32, u32) {
    fn from(run: Run) -> (u32, u64, u32, u32) {
        (run.len, run.id.epoch, run.id.writer, run.count)
    }
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Who last wrote to it: parts of that name may lie behind its end.
    pub(super) writer: PartId,
    pub(super) parts: Vec<Run>,
}

/// Parts that no object has any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waste {
    pub(super) object: String,
    /// Where in the object the first of them was.
    pub(super) offset: u64,
    pub(super) parts: Vec<Run>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Catalogue {
    /// The id of the store whose objects they are.
    pub(super) owner: String,
    /// The process that last opened it for writing, for people.
    pub(super) host: String,
    /// Grows with every process that writes.
    pub(super) epoch: u64,
    /// Grows with every change.
    pub(super) revision: u64,
    /// Bytes of each part that the last writer wrote, but for those that a sync cut short.
    pub(super) part_bytes: u32,
    pub(super) objects: BTreeMap<String, Entry>,
    pub(super) waste: Vec<Waste>,
}

impl Entry {
    pub(super) fn len(&self) -> u64 {
        run_bytes(&self.parts)
    }
}

fn run_bytes(runs: &[Run]) -> u64 {
    runs.iter().map(|run| u64::from(run.len) * u64::from(run.count)).fold(0, u64::saturating_add)
}

/// Offset, length and id of each part of `runs`, the first of which is at `offset`.
pub(super) fn each_part(offset: u64, runs: &[Run]) -> impl Iterator<Item = (u64, u32, PartId)> {
    let parts = runs.iter().flat_map(|run| std::iter::repeat_n((run.len, run.id), run.count as usize));
    parts.scan(offset, |at, (len, id)| {
        let offset = *at;
        *at += u64::from(len);
        Some((offset, len, id))
    })
}

/// The runs of parts that follow each other.
pub(super) fn runs(parts: impl IntoIterator<Item = (u32, PartId)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (len, id) in parts {
        match runs.last_mut() {
            Some(run) if run.len == len && run.id == id => run.count += 1,
            _ => runs.push(Run { len, id, count: 1 }),
        }
    }
    runs
}

/// The path of a part below the place.
pub(super) fn part_path(object: &str, offset: u64, id: PartId) -> String {
    format!("objects/{object}/{offset:012x}-{}-{}", id.epoch, id.writer)
}

impl Catalogue {
    /// A catalogue of nothing. Epochs begin with the time: should an earlier catalogue have been lost, its parts have other names.
    pub(super) fn begin(owner: &str) -> Catalogue {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (revision, part_bytes, objects, waste) = Default::default();
        Catalogue { owner: owner.to_owned(), host: String::new(), epoch: now, revision, part_bytes, objects, waste }
    }

    /// Makes this process the one that writes, for `owner`, in parts of `part_bytes`.
    pub(super) fn claim(&mut self, owner: &str, part_bytes: usize) {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.host = format!("process {} on {host}", std::process::id());
        self.owner = owner.to_owned();
        self.epoch += 1;
        self.part_bytes = u32::try_from(part_bytes).unwrap_or(u32::MAX);
    }

    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let body = serde_json::to_vec(self)?;
        Ok([format!("{FORMAT}{}\n", Hash::of(&body)).as_bytes(), &body].concat())
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Catalogue, String> {
        let end = bytes.iter().position(|&byte| byte == b'\n').ok_or("it has no first line")?;
        let (head, body) = (&bytes[..end], &bytes[end + 1..]);
        let hash = std::str::from_utf8(head).ok().and_then(|head| head.strip_prefix(FORMAT));
        match hash {
            None => return Err("its first line is not one of a catalogue that this caskad reads".to_owned()),
            Some(hash) if hash != Hash::of(body).to_string() => {
                return Err("its bytes do not match its hash".to_owned());
            }
            Some(_) => {}
        }
        let catalogue: Catalogue = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if catalogue.part_bytes == 0 || catalogue.part_bytes > PART_BYTES {
            return Err(format!("it speaks of parts of {} bytes", catalogue.part_bytes));
        }
        let waste = catalogue.waste.iter().map(|waste| &waste.parts);
        for runs in catalogue.objects.values().map(|entry| &entry.parts).chain(waste) {
            if let Some(run) = runs.iter().find(|run| run.len == 0 || run.len > PART_BYTES || run.count == 0) {
                return Err(format!("it lists {} parts of {} bytes", run.count, run.len));
            }
            let parts: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
            if parts > PARTS {
                return Err(format!("it lists {parts} parts of an object, the most is {PARTS}"));
            }
        }
        Ok(catalogue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        let id = PartId { epoch: 7, writer: 2 };
        let parts = runs([(8 << 20, id), (8 << 20, id), (5, id)]);
        let entry = Entry { writer: id, parts: parts.clone() };
        Catalogue {
            owner: "00ff".to_owned(),
            host: "process 1 on a".to_owned(),
            epoch: 7,
            revision: 3,
            part_bytes: 8 << 20,
            objects: [("p-00000001.pack".to_owned(), entry)].into(),
            waste: vec![Waste { object: "p-0".to_owned(), offset: 9, parts }],
        }
    }

    #[test]
    fn the_bytes_of_a_catalogue() {
        let body = concat!(
            r#"{"owner":"00ff","host":"process 1 on a","epoch":7,"revision":3,"part_bytes":8388608,"objects":{"p-00000001.pack":"#,
            r#"{"writer":{"epoch":7,"writer":2},"parts":[[8388608,7,2,2],[5,7,2,1]]}},"#,
            r#""waste":[{"object":"p-0","offset":9,"parts":[[8388608,7,2,2],[5,7,2,1]]}]}"#
        );
        let bytes = format!("caskad-catalogue 1 {}\n{body}", Hash::of(body.as_bytes())).into_bytes();
        assert_eq!(catalogue().encode().unwrap(), bytes);
        assert_eq!(Catalogue::decode(&bytes), Ok(catalogue()));
    }

    #[test]
    fn parts_have_the_places_that_runs_give_them() {
        let entry = &catalogue().objects["p-00000001.pack"];
        let parts: Vec<(u64, u32, PartId)> = each_part(0, &entry.parts).collect();
        assert_eq!(
            parts.iter().map(|(offset, len, _)| (*offset, *len)).collect::<Vec<_>>(),
            [(0, 8 << 20), (8 << 20, 8 << 20), (16 << 20, 5)]
        );
        assert_eq!(entry.len(), (16 << 20) + 5);
        assert_eq!(part_path("p", 0x80_0000, parts[1].2), "objects/p/000000800000-7-2");
    }

    #[test]
    fn an_altered_catalogue_is_found_out() {
        let bytes = catalogue().encode().unwrap();
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Catalogue::decode(&flipped).is_err(), "bit {bit}");
        }
        (0..bytes.len()).for_each(|len| assert!(Catalogue::decode(&bytes[..len]).is_err(), "cut to {len}"));
        let newer = [b"caskad-catalogue 2 ".as_slice(), &bytes[FORMAT.len()..]].concat();
        assert!(Catalogue::decode(&newer).unwrap_err().contains("this caskad reads"));
    }
}

//! Builders of the container formats that splitting recognises, so that no test needs a file from elsewhere.
//!
//! Archives carry no checksums: recognition does not read members, and nothing here is unpacked.
#![allow(dead_code, reason = "each test binary uses its own part")]

/// A tensor to be put into a container.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    /// Its name.
    pub(crate) name: String,
    /// Its dtype, a safetensors word.
    pub(crate) dtype: &'static str,
    /// Rows and columns.
    pub(crate) shape: Vec<u64>,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    /// A vector of `elements` of a dtype, with bytes drawn from its name.
    pub(crate) fn random(name: &str, dtype: &'static str, elements: u64) -> Tensor {
        let bytes = noise(name, elements as usize * width(dtype));
        Tensor { name: name.to_owned(), dtype, shape: vec![elements], bytes }
    }
}

/// Bytes of an element.
fn width(dtype: &str) -> usize {
    match dtype {
        "F64" | "I64" => 8,
        "F32" | "I32" => 4,
        "F16" | "BF16" => 2,
        "U8" => 1,
        _ => panic!("{dtype}"),
    }
}

/// `len` pseudo-random bytes: the extendable output of BLAKE3 over `label`.
pub(crate) fn noise(label: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(label.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A safetensors file, its header padded with spaces to 8 bytes as the reference writer does.
pub(crate) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut text = r#"{"__metadata__":{"format":"pt","nested":[[1,{"a":null}]]}"#.to_owned();
    let mut at = 0;
    for Tensor { name, dtype, shape, bytes } in tensors {
        let end = at + bytes.len();
        text += &format!(r#","{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{at},{end}]}}"#);
        at = end;
    }
    text.push('}');
    safetensors_raw(&text, &tensors.iter().flat_map(|tensor| tensor.bytes.clone()).collect::<Vec<_>>())
}

/// A safetensors file with any header.
pub(crate) fn safetensors_raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut header = header.to_owned();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// A GGUF file, version 3, with metadata of every shape that the walk has to skip.
pub(crate) fn gguf(tensors: &[Tensor], alignment: u32) -> Vec<u8> {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let u32s = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(5_u64.to_le_bytes());
    file.extend([string("general.architecture"), u32s(&[8]), string("bert")].concat());
    file.extend([string("general.alignment"), u32s(&[4, alignment])].concat());
    // 17 bytes, as long as the alignment's key.
    file.extend([string("general.file_type"), u32s(&[4, 7])].concat());
    let tokens: Vec<u8> = (0..20_000).flat_map(|n| string(&format!("token-{n}"))).collect();
    file.extend([string("tokens"), u32s(&[9, 8]), 20_000_u64.to_le_bytes().to_vec(), tokens].concat());
    file.extend([string("scores"), u32s(&[9, 6]), 4_u64.to_le_bytes().to_vec(), u32s(&[0; 4])].concat());
    let mut at = 0_u64;
    for Tensor { name, dtype, shape, bytes } in tensors {
        file.extend(string(name));
        file.extend((shape.len() as u32).to_le_bytes());
        file.extend(shape.iter().rev().flat_map(|dimension| dimension.to_le_bytes()));
        let kind: u32 = match *dtype {
            "F32" => 0,
            "F16" => 1,
            "Q8_0" => 8,
            "I64" => 27,
            "BF16" => 30,
            other => panic!("{other}"),
        };
        file.extend(kind.to_le_bytes());
        file.extend(at.to_le_bytes());
        at = (at + bytes.len() as u64).next_multiple_of(alignment.into());
    }
    for Tensor { bytes, .. } in tensors {
        file.resize(file.len().next_multiple_of(alignment as usize), 0);
        file.extend(bytes);
    }
    file
}

/// A member of a zip archive.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Its path.
    pub(crate) name: String,
    /// Its bytes as they lie in the archive.
    pub(crate) bytes: Vec<u8>,
    /// Whether the directory calls it compressed.
    pub(crate) deflated: bool,
}

impl Member {
    /// A stored member.
    pub(crate) fn stored(name: &str, bytes: &[u8]) -> Member {
        Member { name: name.to_owned(), bytes: bytes.to_vec(), deflated: false }
    }
}

/// A zip archive whose members' bytes start at multiples of 64, as PyTorch's do. With `zip64`, all sizes and places stand in the
/// zip64 records only.
pub(crate) fn zip(members: &[Member], zip64: bool) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for Member { name, bytes, deflated } in members {
        let (local, len) = (file.len() as u64, bytes.len() as u32);
        let method: u16 = if *deflated { 8 } else { 0 };
        let padding = (64 - (file.len() + 30 + name.len() + 4) % 64) % 64;
        file.extend(b"PK\x03\x04\x2d\0\0\0");
        file.extend(method.to_le_bytes());
        file.extend([0; 8]);
        file.extend([len.to_le_bytes(), len.to_le_bytes()].concat());
        file.extend([(name.len() as u16).to_le_bytes(), (4 + padding as u16).to_le_bytes()].concat());
        file.extend(name.as_bytes());
        file.extend(b"FB");
        file.extend((padding as u16).to_le_bytes());
        file.extend(vec![b'Z'; padding]);
        file.extend(bytes);

        let mut extra = b"\x99\x99\x02\0ab".to_vec();
        if zip64 {
            extra.extend(b"\x01\0\x18\0");
            extra.extend([u64::from(len), u64::from(len), local].map(u64::to_le_bytes).concat());
        }
        let short = |value: u32| if zip64 { u32::MAX } else { value }.to_le_bytes();
        directory.extend(b"PK\x01\x02\x2d\0\x2d\0\0\0");
        directory.extend(method.to_le_bytes());
        directory.extend([0; 8]);
        directory.extend([short(len), short(len)].concat());
        directory.extend([name.len() as u16, extra.len() as u16, 0].map(u16::to_le_bytes).concat());
        directory.extend([0; 8]);
        directory.extend(short(local as u32));
        directory.extend(name.as_bytes());
        directory.extend(extra);
    }
    let (at, len, entries) = (file.len() as u64, directory.len() as u64, members.len() as u64);
    file.extend(directory);
    if zip64 {
        let end64 = file.len() as u64;
        file.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
        file.extend([entries, entries, len, at].map(u64::to_le_bytes).concat());
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(end64.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
    }
    let short = |value: u64| if zip64 { u32::MAX } else { value as u32 }.to_le_bytes();
    let count = if zip64 { u16::MAX } else { entries as u16 }.to_le_bytes();
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count, count].concat());
    file.extend([short(len), short(at)].concat());
    file.extend(b"\x05\0PK\x05\x06!");
    file
}

/// A PyTorch checkpoint: a pickle, some documents, and one storage for each tensor.
pub(crate) fn pt(tensors: &[Tensor]) -> Vec<u8> {
    let mut members =
        vec![Member::stored("model/data.pkl", &noise("pickle", 700)), Member::stored("model/byteorder", b"little")];
    members.extend(
        tensors.iter().enumerate().map(|(n, tensor)| Member::stored(&format!("model/data/{n}"), &tensor.bytes)),
    );
    members.push(Member::stored("model/version", b"3\n"));
    zip(&members, false)
}

/// An array file as `numpy.save` writes it.
pub(crate) fn npy(version: u8, descr: &str, column_major: bool, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let order = if column_major { "True" } else { "False" };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
    let prefix = if version == 1 { 10 } else { 12 };
    while !(prefix + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut file = [b"\x93NUMPY".as_slice(), &[version, 0]].concat();
    match version {
        1 => file.extend((header.len() as u16).to_le_bytes()),
        _ => file.extend((header.len() as u32).to_le_bytes()),
    }
    file.extend(header.as_bytes());
    file.extend(bytes);
    file
}

/// A model in its `step`-th step of training, as safetensors: every weight has moved a little since the step before. Two tensors have
/// a chunk each, and small ones share another.
pub(crate) fn checkpoint(run: &str, step: u32) -> Vec<u8> {
    let tensor = |name: &str, elements: u32| {
        let seed = blake3::hash(format!("{run} {name}").as_bytes()).as_bytes()[0];
        let weight = |n: u32| (n as f32 + f32::from(seed)).sin() + step as f32 * 1e-6 * (n % 7) as f32;
        let bytes = (0..elements).flat_map(|n| weight(n).to_le_bytes()).collect();
        Tensor { name: name.to_owned(), dtype: "F32", shape: vec![elements.into()], bytes }
    };
    safetensors(&[tensor("embed", 17_000), tensor("head", 20_000), tensor("norm", 300), tensor("bias", 500)])
}

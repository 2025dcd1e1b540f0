//! TensorBoard's event files: TFRecord frames around protocol buffers (`tensorflow/core/util/event.proto`), as much of
//! them as scalars need.

/// A scalar at a step.
pub(super) struct Scalar {
    /// Such as `test/iou`.
    pub tag: &'static str,
    pub step: u64,
    /// Seconds since 1970.
    pub time: f64,
    pub value: f32,
}

/// The bytes of an event file with these scalars.
pub(super) fn event_file(begun: f64, scalars: &[Scalar]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut version = time_and_step(begun, 0);
    put_bytes(&mut version, 3, b"brain.Event:2");
    put_record(&mut file, &version);
    for scalar in scalars {
        let mut value = Vec::new();
        put_bytes(&mut value, 1, scalar.tag.as_bytes());
        put_tag(&mut value, 2, FIXED_32);
        value.extend(scalar.value.to_le_bytes());
        let mut summary = Vec::new();
        put_bytes(&mut summary, 1, &value);
        let mut event = time_and_step(scalar.time, scalar.step);
        put_bytes(&mut event, 5, &summary);
        put_record(&mut file, &event);
    }
    file
}

const VARINT: u32 = 0;
const FIXED_64: u32 = 1;
const LENGTH: u32 = 2;
const FIXED_32: u32 = 5;

fn time_and_step(time: f64, step: u64) -> Vec<u8> {
    let mut event = Vec::new();
    put_tag(&mut event, 1, FIXED_64);
    event.extend(time.to_le_bytes());
    put_tag(&mut event, 2, VARINT);
    put_varint(&mut event, step);
    event
}

fn put_tag(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    put_varint(out, u64::from(field << 3 | wire_type));
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_tag(out, field, LENGTH);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Length, its checksum, the data, its checksum.
fn put_record(out: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first record as TensorFlow writes it, by its published layout.
    #[test]
    fn a_file_begins_with_its_version() {
        let file = event_file(1.5, &[]);
        assert_eq!(file[..8], 26u64.to_le_bytes());
        let data = &file[12..12 + 26];
        let expected = [&[0x09][..], &1.5f64.to_le_bytes(), &[0x10, 0, 0x1a, 13], b"brain.Event:2"].concat();
        assert_eq!(data, expected);
        assert_eq!(file.len(), 12 + 26 + 4);
        // RFC 3720, B.4: 32 bytes of zeros have the CRC-32C 0x8a9136aa.
        assert_eq!(masked_crc(&[0; 32]), 0x8a91_36aau32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_longer_file_begins_with_the_shorter_one() {
        let scalar = |step| Scalar { tag: "loss", step, time: 2.0, value: 0.25 };
        let short = event_file(1.0, &[scalar(1)]);
        let long = event_file(1.0, &[scalar(1), scalar(300)]);
        assert!(long.starts_with(&short) && long.len() > short.len());
        assert!(short.windows(4).any(|bytes| bytes == b"loss"));
    }
}

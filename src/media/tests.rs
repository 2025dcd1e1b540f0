//! Readers and the writer, each on clips in which every frame is recognisable.

use super::*;

#[test]
fn scratch_real() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/rca_cine.dcm");
    let mut clip = open(&path).unwrap();
    println!("{:?}", clip.info());
    let mut n = 0;
    while let Some(f) = clip.next_frame().unwrap() {
        if n == 0 || n == 60 || n == 95 {
            image::save_buffer(format!("/tmp/media-rca-{n}.png"), f.samples(), 512, 512, image::ColorType::L8).unwrap();
        }
        n += 1;
    }
    println!("{n}");
}

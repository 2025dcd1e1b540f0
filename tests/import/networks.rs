//! Which tensor of another network becomes which of ours, and which networks are none that could.

use super::writer::State;
use coronet::model::{Config, Stem};
use coronet::weights::Weights;
use coronet::weights::import::{Import, ImportOptions, Source, import};
use std::path::Path;

const RESNET_34: [usize; 4] = [3, 4, 6, 3];

/// A tensor of a network to be written: name and sizes.
type Layer = (String, Vec<usize>);

/// A convolution of `outputs` filters and the batch norm behind it, as torchvision numbers them.
fn conv_and_norm(layers: &mut Vec<Layer>, conv: String, norm: String, filter: [usize; 4]) {
    layers.push((format!("{conv}.weight"), filter.to_vec()));
    for name in ["weight", "bias", "running_mean", "running_var"] {
        layers.push((format!("{norm}.{name}"), vec![filter[0]]));
    }
    layers.push((format!("{norm}.num_batches_tracked"), vec![]));
}

/// The four layers of a ResNet. Bottleneck blocks are there by name, with filters as a basic block has them.
fn encoders(prefix: &str, width: usize, blocks: [usize; 4], bottleneck: bool) -> Vec<Layer> {
    let mut layers = Vec::new();
    let mut inputs = width;
    for (number, blocks) in blocks.into_iter().enumerate() {
        let outputs = width << number;
        for block in 0..blocks {
            let name = format!("{prefix}{}.{block}", number + 1);
            for conv in 1..=if bottleneck { 3 } else { 2 } {
                let filter = [outputs, if conv == 1 { inputs } else { outputs }, 3, 3];
                conv_and_norm(&mut layers, format!("{name}.conv{conv}"), format!("{name}.bn{conv}"), filter);
            }
            if inputs != outputs {
                let projection = [outputs, inputs, 1, 1];
                conv_and_norm(&mut layers, format!("{name}.downsample.0"), format!("{name}.downsample.1"), projection);
            }
            inputs = outputs;
        }
    }
    layers
}

fn resnet(width: usize, blocks: [usize; 4], bottleneck: bool) -> Vec<Layer> {
    let mut layers = encoders("layer", width, blocks, bottleneck);
    conv_and_norm(&mut layers, "conv1".into(), "bn1".into(), [width, 3, 7, 7]);
    layers.extend([("fc.weight".into(), vec![10, 8 * width]), ("fc.bias".into(), vec![10])]);
    layers
}

fn cenet(width: usize) -> Vec<Layer> {
    let mut layers = encoders("encoder", width, RESNET_34, false);
    conv_and_norm(&mut layers, "firstconv".into(), "firstbn".into(), [width, 3, 7, 7]);
    let mut biased = |name: &str, filter: [usize; 4], outputs: usize| {
        layers.push((format!("{name}.weight"), filter.to_vec()));
        layers.push((format!("{name}.bias"), vec![outputs]));
    };
    let deep = 8 * width;
    for (name, kernel) in [("dilate1", 3), ("dilate2", 3), ("dilate3", 3), ("conv1x1", 1)] {
        biased(&format!("dblock.{name}"), [deep, deep, kernel, kernel], deep);
    }
    biased("spp.conv", [1, deep, 1, 1], 1);
    let half = width / 2;
    biased("finaldeconv1", [width, half, 4, 4], half);
    biased("finalconv2", [half, half, 3, 3], half);
    biased("finalconv3", [1, half, 3, 3], 1);
    for (number, inputs, outputs) in
        [(4, deep + 4, 4 * width), (3, 4 * width, 2 * width), (2, 2 * width, width), (1, width, width)]
    {
        let (name, middle) = (format!("decoder{number}"), inputs / 4);
        for (conv, norm, filter, channels) in [
            ("conv1", "norm1", [middle, inputs, 1, 1], middle),
            ("deconv2", "norm2", [middle, middle, 3, 3], middle),
            ("conv3", "norm3", [outputs, middle, 1, 1], outputs),
        ] {
            conv_and_norm(&mut layers, format!("{name}.{conv}"), format!("{name}.{norm}"), filter);
            // The norm counts the filters, which lie the other way round in a transposed convolution; here both agree.
            layers.push((format!("{name}.{conv}.bias"), vec![channels]));
        }
    }
    layers
}

/// A file of these tensors, whose numbers differ from tensor to tensor and within each.
fn file(layers: &[Layer]) -> State {
    let mut state = State::default();
    for (at, (name, dims)) in layers.iter().enumerate() {
        let count = dims.iter().product::<usize>();
        if name.ends_with("num_batches_tracked") {
            state.add_bytes(name, dims, "LongStorage", count, vec![0; 8 * count]);
        } else {
            let numbers: Vec<f32> = (0..count).map(|i| number(at, i)).collect();
            state.add(name, dims, &numbers);
        }
    }
    state
}

fn number(tensor: usize, place: usize) -> f32 {
    tensor as f32 + (place % 1000) as f32 / 1024.0
}

fn imported(bytes: &[u8], options: ImportOptions) -> Result<Import, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.pth");
    std::fs::write(&path, bytes).unwrap();
    let start = format!("weights {}: ", path.display());
    import(&path, &options).map_err(|error| error.to_string().strip_prefix(&start).unwrap().to_owned())
}

fn problem(layers: &[Layer]) -> String {
    imported(&file(layers).zip(), ImportOptions::default()).unwrap_err()
}

/// Checks that `ours` has the numbers which `file` gave to `theirs`.
fn assert_taken(import: &Import, ours: &str, layers: &[Layer], theirs: &str) {
    let at = layers.iter().position(|(name, _)| name == theirs).unwrap_or_else(|| panic!("no {theirs}"));
    let tensor = import.weights.get(ours).unwrap_or_else(|| panic!("no {ours}"));
    assert_eq!(tensor.shape().dims(), layers[at].1, "{ours}");
    assert!(tensor.data().iter().enumerate().all(|(i, &x)| x == number(at, i)), "{ours} is not {theirs}");
}

fn assert_loads(import: &Import) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    import.weights.save(&path).unwrap();
    assert_eq!(Weights::load(&path).unwrap(), import.weights);
}

const PAIRS: [(&str, &str); 8] = [
    ("1.0.conv1.weight", "1.0.conv1.weight"),
    ("1.2.norm2.weight", "1.2.bn2.weight"),
    ("2.0.norm1.bias", "2.0.bn1.bias"),
    ("2.0.downsample.0.weight", "2.0.downsample.0.weight"),
    ("2.0.downsample.1.weight", "2.0.downsample.1.weight"),
    ("2.0.downsample.1.bias", "2.0.downsample.1.bias"),
    ("3.5.conv2.weight", "3.5.conv2.weight"),
    ("4.2.norm2.bias", "4.2.bn2.bias"),
];

#[test]
fn a_resnet_34_becomes_the_encoders_and_the_rest_is_seeded() {
    let layers = resnet(4, RESNET_34, false);
    let options = ImportOptions { neighbours: Some(2), seed: 5, ..Default::default() };
    let import = imported(&file(&layers).legacy(), options).unwrap();
    let config = Config::new(4, Stem::Half, 2, 1).unwrap();
    assert_eq!((import.source, import.weights.config()), (Source::ResNet34, config));
    assert_eq!((import.held, import.taken), (218, 105));
    for (ours, theirs) in PAIRS {
        assert_taken(&import, &format!("encoder{ours}"), &layers, &format!("layer{theirs}"));
    }
    let seeded = Weights::seeded(config, 5).unwrap();
    for (name, tensor) in import.weights.iter() {
        assert_eq!(name.starts_with("encoder"), Some(tensor) != seeded.get(name), "{name}");
    }
    let left: Vec<(usize, &str)> = import.left_out.iter().map(|group| (group.tensors.len(), group.reason)).collect();
    assert_eq!(
        left,
        [
            (3, "its first layer, which the 3D-2D stem replaces"),
            (108, "running statistics, which instance norm does not use"),
            (2, "its classifier"),
        ]
    );
    let layers: Vec<&str> = import.seeded.iter().map(String::as_str).collect();
    let seeded =
        ["temporal", "fuse", "fuse_norm", "dac", "rmp", "decoder4", "decoder3", "decoder2", "decoder1", "head"];
    assert_eq!(layers, seeded);
    assert_loads(&import);
}

#[test]
fn a_resnet_34_of_its_real_size_gives_width_64() {
    let layers = resnet(64, RESNET_34, false);
    let mut state = State::default();
    for (at, (name, dims)) in layers.iter().enumerate() {
        let count: usize = dims.iter().product();
        let bytes = half::f16::from_f32(at as f32).to_le_bytes().repeat(count);
        state.add_bytes(name, dims, "HalfStorage", count, bytes);
    }
    let import = imported(&state.legacy(), ImportOptions { stem: Some(Stem::Quarter), ..Default::default() }).unwrap();
    assert_eq!(import.weights.config(), Config::new(64, Stem::Quarter, 1, 1).unwrap());
    let taken: usize =
        import.weights.iter().filter(|(n, _)| n.starts_with("encoder")).map(|(_, t)| t.data().len()).sum();
    assert_eq!(taken, 21_275_136, "the parameters of torchvision's layer1 to layer4");
    let at = layers.iter().position(|(name, _)| name == "layer4.2.bn2.weight").unwrap();
    assert_eq!(import.weights.get("encoder4.2.norm2.weight").unwrap().data(), [at as f32; 512]);
}

#[test]
fn a_cenet_brings_all_but_its_first_layer() {
    let layers = cenet(8);
    let import = imported(&file(&layers).zip(), ImportOptions::default()).unwrap();
    let config = Config::new(8, Stem::Quarter, 1, 1).unwrap();
    assert_eq!((import.source, import.weights.config()), (Source::CeNet, config));
    for (ours, theirs) in PAIRS {
        assert_taken(&import, &format!("encoder{ours}"), &layers, &format!("encoder{theirs}"));
    }
    for (ours, theirs) in [
        ("dac.dilate3.weight", "dblock.dilate3.weight"),
        ("dac.conv1x1.bias", "dblock.conv1x1.bias"),
        ("rmp.conv.weight", "spp.conv.weight"),
        ("decoder4.deconv2.weight", "decoder4.deconv2.weight"),
        ("decoder1.norm3.bias", "decoder1.norm3.bias"),
        ("head.conv1.weight", "finaldeconv1.weight"),
        ("head.conv2.bias", "finalconv2.bias"),
        ("head.conv3.weight", "finalconv3.weight"),
    ] {
        assert_taken(&import, ours, &layers, theirs);
    }
    assert_eq!(import.seeded, ["temporal", "fuse", "fuse_norm"]);
    let seeded = Weights::seeded(config, 1).unwrap();
    let same = |name: &&str| import.weights.get(name) == seeded.get(name);
    let left: Vec<&str> = seeded.iter().map(|(name, _)| name).filter(same).collect();
    assert_eq!(left, ["fuse.weight", "fuse_norm.bias", "fuse_norm.weight", "temporal.bias", "temporal.weight"]);
    assert_loads(&import);
}

#[test]
fn the_last_layers_of_a_cenet_fit_one_stem_only() {
    let options = ImportOptions { stem: Some(Stem::Half), in_channels: Some(3), ..Default::default() };
    let import = imported(&file(&cenet(4)).zip(), options).unwrap();
    assert_eq!(import.weights.config(), Config::new(4, Stem::Half, 1, 3).unwrap());
    assert_eq!(import.seeded, ["temporal", "fuse", "fuse_norm", "head"]);
    let last = import.left_out.iter().find(|group| group.reason == "its last layers, which fit stem quarter only");
    assert_eq!(last.unwrap().tensors.len(), 6);
}

#[test]
fn the_other_resnets_are_refused_by_name() {
    for (blocks, bottleneck, expected) in [
        ([2, 2, 2, 2], false, "holds a ResNet of 2, 2, 2, 2 basic blocks (ResNet-18)"),
        ([3, 4, 6, 3], true, "holds a ResNet of 3, 4, 6, 3 bottleneck blocks (ResNet-50)"),
        ([3, 4, 23, 3], true, "holds a ResNet of 3, 4, 23, 3 bottleneck blocks (ResNet-101)"),
        ([3, 4, 6, 2], false, "holds a ResNet of 3, 4, 6, 2 basic blocks"),
    ] {
        let needed = "the encoders are those of ResNet-34, 3, 4, 6, 3 basic blocks";
        assert_eq!(problem(&resnet(4, blocks, bottleneck)), format!("{expected}; {needed}"));
    }
}

#[test]
fn a_tensor_too_few_too_many_or_of_another_shape_or_type_is_named() {
    let with = |change: &dyn Fn(&mut Vec<Layer>)| {
        let mut layers = resnet(4, RESNET_34, false);
        change(&mut layers);
        problem(&layers)
    };
    let missing = with(&|layers| layers.retain(|(name, _)| name != "layer2.0.bn1.bias"));
    assert_eq!(missing, "holds no tensor layer2.0.bn1.bias, which torchvision's ResNet-34 has");
    let extra = with(&|layers| layers.push(("layer2.0.attention.weight".into(), vec![1])));
    assert_eq!(extra, "holds a tensor \"layer2.0.attention.weight\", which torchvision's ResNet-34 does not have");
    let reshaped =
        with(&|layers| layers.iter_mut().find(|l| l.0 == "layer3.0.conv1.weight").unwrap().1 = vec![16, 8, 9]);
    assert_eq!(reshaped, "tensor layer3.0.conv1.weight has the shape [16, 8, 9], not [16, 8, 3, 3]");
    let swapped =
        with(&|layers| layers.iter_mut().find(|l| l.0 == "layer2.0.conv1.weight").unwrap().1 = vec![4, 8, 3, 3]);
    assert_eq!(swapped, "tensor layer2.0.conv1.weight has the shape [4, 8, 3, 3], not [8, 4, 3, 3]");

    let mut state = file(&resnet(4, RESNET_34, false));
    state.storages[0].class = "IntStorage";
    let problem = imported(&state.zip(), ImportOptions::default()).unwrap_err();
    assert_eq!(problem, "tensor layer1.0.conv1.weight is int32, not floating-point");
    assert_eq!(with(&|layers| layers.clear()), "holds no state dictionary: save a network's state_dict()");
}

#[test]
fn a_file_of_no_known_network_is_refused() {
    let problem = problem(&[("features.0.weight".into(), vec![4, 3, 3, 3])]);
    assert!(
        problem.starts_with("holds no network Coronet can import") && problem.contains("features.0.weight"),
        "{problem}"
    );
}

#[test]
fn names_made_to_deceive_a_terminal_are_shown_escaped_and_cut() {
    let name = "\u{1b}".repeat(1 << 16);
    let cut = "\\u{1b}".repeat(100) + "...";
    let none = problem(&[(name.clone(), vec![1])]);
    assert!(none.ends_with(&format!(", but \"{cut}\" for one")), "{none}");
    let mut layers = resnet(4, RESNET_34, false);
    layers.push((name, vec![1]));
    let expected = format!("holds a tensor \"{cut}\", which torchvision's ResNet-34 does not have");
    assert_eq!(problem(&layers), expected);
}

#[test]
fn numbers_that_are_none_are_refused_with_their_place() {
    let mut state = file(&resnet(4, RESNET_34, false));
    state.storages[0].bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    let problem = imported(&state.zip(), ImportOptions::default()).unwrap_err();
    assert_eq!(problem, "tensor layer1.0.conv1.weight holds NaN at position 2, which is no finite float32");
}

/// Weights of ours in a PyTorch file.
fn own(config: Config) -> (Weights, State) {
    let weights = Weights::seeded(config, 7).unwrap();
    let mut state = State::default();
    for (name, tensor) in weights.iter() {
        state.add(&format!("module.{name}"), &tensor.shape().dims(), tensor.data());
    }
    (weights, state)
}

#[test]
fn our_own_names_come_back_whole_and_only_whole() {
    let (weights, mut state) = own(Config::new(4, Stem::Quarter, 2, 3).unwrap());
    let import = imported(&state.zip(), ImportOptions::default()).unwrap();
    assert_eq!(import.weights, weights);
    assert_eq!((import.taken, import.held), (weights.iter().count(), weights.iter().count()));
    assert!(import.seeded.is_empty() && import.left_out.is_empty());

    let at = state.tensors.iter().position(|tensor| tensor.name == "module.rmp.conv.bias").unwrap();
    let kept = state.tensors.remove(at);
    let problem = imported(&state.zip(), ImportOptions::default()).unwrap_err();
    assert_eq!(problem, "holds no tensor rmp.conv.bias, which a 3D-2D CE-Net has");
    state.tensors.push(kept);
    state.add("module.extra", &[1], &[0.0]);
    let problem = imported(&state.zip(), ImportOptions::default()).unwrap_err();
    assert_eq!(problem, "holds a tensor \"extra\", which a 3D-2D CE-Net does not have");
}

#[test]
fn options_that_do_not_go_with_the_file_are_refused() {
    let (_, grey) = own(Config::new(4, Stem::Half, 1, 1).unwrap());
    let refused = |options| imported(&grey.zip(), options).unwrap_err();
    let luminance = ImportOptions { luminance: true, ..Default::default() };
    assert_eq!(refused(luminance), "has a first layer of one channel, so there is nothing to fold to luminance");
    let made = "gives a 3D-2D CE-Net, width 4, stem half, N = 1, 1 input channel, not the 3D-2D CE-Net, width 4";
    let problem = refused(ImportOptions { neighbours: Some(2), ..Default::default() });
    assert_eq!(problem, format!("{made}, stem half, N = 2, 1 input channel asked for"));
    let problem = refused(ImportOptions { stem: Some(Stem::Quarter), in_channels: Some(3), ..Default::default() });
    assert_eq!(problem, format!("{made}, stem quarter, N = 1, 3 input channels asked for"));
    assert!(refused(ImportOptions { neighbours: Some(9), ..Default::default() }).contains("0 to 3 neighbours"));

    let problem = imported(&file(&resnet(4, RESNET_34, false)).zip(), luminance).unwrap_err();
    assert_eq!(problem, "has no first layer to fold to luminance: that of torchvision's ResNet-34 is left out");
}

#[test]
fn safetensors_are_told_by_their_content() {
    let config = Config::new(4, Stem::Half, 0, 1).unwrap();
    let weights = Weights::seeded(config, 3).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("misnamed.pth");
    weights.save(&path).unwrap();
    assert_eq!(import(Path::new(&path), &ImportOptions::default()).unwrap().weights, weights);
}

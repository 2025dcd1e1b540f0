//! The 3D-2D CE-Net of Wang, Liang et al., BMC Med Imaging 20:110 (2020): a window of 2N+1 frames goes in, the vessel
//! probability of the middle frame comes out.
//!
//! A temporal convolution fuses the window into one stack of maps; a ResNet-34 encoder, dense atrous convolution (DAC),
//! residual multi-kernel pooling (RMP) and a decoder with additive skips follow, as in CE-Net (Gu et al. 2019), with
//! instance norm throughout.

use super::{Config, Stem};
use crate::error::Result;
use crate::graph::{Graph, Shape, ValueId};
use crate::ops::{Conv, MaxPool, TransposedConv};

/// Blocks of each ResNet-34 layer.
pub(crate) const BLOCKS: [usize; 4] = [3, 4, 6, 3];

/// The network as a graph.
#[derive(Debug, Clone)]
pub struct CeNet {
    /// The graph; its states are the parameters, and what a training step adds.
    pub graph: Graph,
    /// What was built.
    pub config: Config,
    /// The input, `window` batch x channels x (2N+1) x height x width.
    pub window: ValueId,
    /// Named results along the way: temporal, stem, encoder1..4, dac, rmp, decoder4..1, logits, probability.
    pub stages: Vec<(String, ValueId)>,
    /// Before the sigmoid, batch x 1 x height x width.
    pub logits: ValueId,
    /// Vessel probability, batch x 1 x height x width.
    pub probability: ValueId,
    /// Name (as in weights files) and value of every parameter, in the order of the layers.
    pub parameters: Vec<(String, ValueId)>,
}

impl CeNet {
    /// Builds the network for `batch` windows of `height` x `width`.
    ///
    /// # Errors
    /// [`crate::Error::Request`] when the size does not fit the network.
    pub fn build(config: Config, batch: usize, height: usize, width: usize) -> Result<CeNet> {
        config.check_size(height, width)?;
        let mut graph = Graph::new();
        let shape = Shape::Window { batch, channels: config.in_channels(), frames: config.frames(), height, width };
        let window = graph.input("window", shape);
        let mut builder = Builder { graph, config, stages: Vec::new() };
        let (logits, probability) = builder.network(window)?;
        let Builder { graph, stages, .. } = builder;
        let parameters = graph.states().map(|(id, value)| (value.name.clone(), id)).collect();
        Ok(CeNet { graph, config, window, stages, logits, probability, parameters })
    }
}

struct Builder {
    graph: Graph,
    config: Config,
    stages: Vec<(String, ValueId)>,
}

impl Builder {
    fn stage(&mut self, name: &str, value: ValueId) -> ValueId {
        self.stages.push((name.to_owned(), value));
        value
    }

    fn network(&mut self, window: ValueId) -> Result<(ValueId, ValueId)> {
        let stem = self.stem(window)?;
        let mut encoded = Vec::new();
        let mut x = stem;
        for layer in 1..=4 {
            x = self.encoder(layer, x)?;
            encoded.push(x);
        }
        x = self.dense_atrous_conv(x)?;
        x = self.residual_pooling(x)?;
        for layer in (1..=4).rev() {
            let outputs = self.config.width() << layer.max(2) >> 2;
            x = self.decoder(layer, x, outputs)?;
            if layer >= 2 {
                x = self.graph.add(&format!("decoder{layer}.skip"), x, encoded[layer - 2])?;
            }
            x = self.stage(&format!("decoder{layer}"), x);
        }
        let logits = self.head(x)?;
        let probability = self.graph.sigmoid("sigmoid", logits)?;
        Ok((self.stage("logits", logits), self.stage("probability", probability)))
    }

    fn stem(&mut self, window: ValueId) -> Result<ValueId> {
        let (width, frames) = (self.config.width(), self.config.frames());
        let temporal = width / 4;
        let filter = Shape::TemporalFilter {
            outputs: temporal,
            channels: self.config.in_channels(),
            frames,
            height: 3,
            width: 3,
        };
        let filter = self.graph.state("temporal.weight", filter);
        let bias = self.graph.state("temporal.bias", Shape::Channels { channels: temporal });
        let x = self.graph.temporal_conv("temporal", window, filter, Some(bias))?;
        let x = self.graph.relu("temporal.relu", x)?;
        self.stage("temporal", x);
        let (kernel, conv, pool) = match self.config.stem() {
            Stem::Half => (3, Conv::same(3), MaxPool::tiled(2)),
            Stem::Quarter => {
                (7, Conv { stride: 2, padding: 3, dilation: 1 }, MaxPool { kernel: 3, stride: 2, padding: 1 })
            }
        };
        let x = self.conv("fuse", x, (temporal, width, kernel), conv, false)?;
        let x = self.norm("fuse_norm", x)?;
        let x = self.graph.relu("fuse.relu", x)?;
        let x = self.graph.max_pool("pool", x, pool)?;
        Ok(self.stage("stem", x))
    }

    fn encoder(&mut self, layer: usize, mut x: ValueId) -> Result<ValueId> {
        let outputs = self.config.width() << (layer - 1);
        for block in 0..BLOCKS[layer - 1] {
            let reduces = layer > 1 && block == 0;
            let inputs = if reduces { outputs / 2 } else { outputs };
            x = self.basic_block(&format!("encoder{layer}.{block}"), x, inputs, outputs, reduces)?;
        }
        Ok(self.stage(&format!("encoder{layer}"), x))
    }

    fn basic_block(&mut self, name: &str, x: ValueId, inputs: usize, outputs: usize, reduces: bool) -> Result<ValueId> {
        let stride = if reduces { 2 } else { 1 };
        let first = Conv { stride, padding: 1, dilation: 1 };
        let y = self.conv(&format!("{name}.conv1"), x, (inputs, outputs, 3), first, false)?;
        let y = self.norm(&format!("{name}.norm1"), y)?;
        let y = self.graph.relu(&format!("{name}.relu1"), y)?;
        let y = self.conv(&format!("{name}.conv2"), y, (outputs, outputs, 3), Conv::same(3), false)?;
        let y = self.norm(&format!("{name}.norm2"), y)?;
        let shortcut = if reduces {
            let projection = Conv { stride, padding: 0, dilation: 1 };
            let x = self.conv(&format!("{name}.downsample.0"), x, (inputs, outputs, 1), projection, false)?;
            self.norm(&format!("{name}.downsample.1"), x)?
        } else {
            x
        };
        let y = self.graph.add(&format!("{name}.add"), y, shortcut)?;
        self.graph.relu(&format!("{name}.relu2"), y)
    }

    /// `x + ReLU(A x) + ReLU(P B x) + ReLU(P B A x) + ReLU(P C B A x)` with shared A, B, C (3x3, dilation 1, 3, 5) and
    /// P (1x1): `A x` and `B A x` are computed once.
    fn dense_atrous_conv(&mut self, x: ValueId) -> Result<ValueId> {
        let channels = 8 * self.config.width();
        let a = self.shared_conv("dac.dilate1", channels, 3)?;
        let b = self.shared_conv("dac.dilate2", channels, 3)?;
        let c = self.shared_conv("dac.dilate3", channels, 3)?;
        let p = self.shared_conv("dac.conv1x1", channels, 1)?;
        let dilated = |dilation| Conv { stride: 1, padding: dilation, dilation };
        let ax = self.graph.conv("dac.a", x, a.0, Some(a.1), dilated(1))?;
        let bx = self.graph.conv("dac.b", x, b.0, Some(b.1), dilated(3))?;
        let bax = self.graph.conv("dac.ba", ax, b.0, Some(b.1), dilated(3))?;
        let cbax = self.graph.conv("dac.cba", bax, c.0, Some(c.1), dilated(5))?;
        let mut branches = vec![ax];
        for (name, y) in [("dac.pb", bx), ("dac.pba", bax), ("dac.pcba", cbax)] {
            branches.push(self.graph.conv(name, y, p.0, Some(p.1), Conv::same(1))?);
        }
        let mut sum = x;
        for (i, branch) in branches.into_iter().enumerate() {
            let branch = self.graph.relu(&format!("dac.relu{i}"), branch)?;
            sum = self.graph.add(&format!("dac.add{i}"), sum, branch)?;
        }
        Ok(self.stage("dac", sum))
    }

    /// Pools of 2, 3, 5 and 6, a shared 1x1 convolution to one channel, resized back and put in front of `x`.
    fn residual_pooling(&mut self, x: ValueId) -> Result<ValueId> {
        let channels = 8 * self.config.width();
        let filter = Shape::Filter { outputs: 1, inputs: channels, height: 1, width: 1 };
        let filter = self.graph.state("rmp.conv.weight", filter);
        let bias = self.graph.state("rmp.conv.bias", Shape::Channels { channels: 1 });
        let Shape::Maps { height, width, .. } = self.graph.shape(x) else { unreachable!("encoders make maps") };
        let mut parts = Vec::new();
        for cell in [2, 3, 5, 6] {
            let y = self.graph.max_pool(&format!("rmp.pool{cell}"), x, MaxPool::tiled(cell))?;
            let y = self.graph.conv(&format!("rmp.conv{cell}"), y, filter, Some(bias), Conv::same(1))?;
            parts.push(self.graph.resize(&format!("rmp.resize{cell}"), y, height, width)?);
        }
        parts.push(x);
        let y = self.graph.concatenate("rmp.concatenate", &parts)?;
        Ok(self.stage("rmp", y))
    }

    fn decoder(&mut self, layer: usize, x: ValueId, outputs: usize) -> Result<ValueId> {
        let name = format!("decoder{layer}");
        let Shape::Maps { channels: inputs, .. } = self.graph.shape(x) else { unreachable!("layers make maps") };
        let middle = inputs / 4;
        let x = self.conv(&format!("{name}.conv1"), x, (inputs, middle, 1), Conv::same(1), true)?;
        let x = self.norm(&format!("{name}.norm1"), x)?;
        let x = self.graph.relu(&format!("{name}.relu1"), x)?;
        let doubled = TransposedConv { stride: 2, padding: 1, output_padding: 1 };
        let x = self.transposed_conv(&format!("{name}.deconv2"), x, (middle, middle, 3), doubled)?;
        let x = self.norm(&format!("{name}.norm2"), x)?;
        let x = self.graph.relu(&format!("{name}.relu2"), x)?;
        let x = self.conv(&format!("{name}.conv3"), x, (middle, outputs, 1), Conv::same(1), true)?;
        let x = self.norm(&format!("{name}.norm3"), x)?;
        self.graph.relu(&format!("{name}.relu3"), x)
    }

    fn head(&mut self, x: ValueId) -> Result<ValueId> {
        let (width, half) = (self.config.width(), self.config.width() / 2);
        let x = match self.config.stem() {
            Stem::Half => self.conv("head.conv1", x, (width, half, 3), Conv::same(3), true)?,
            Stem::Quarter => {
                let doubled = TransposedConv { stride: 2, padding: 1, output_padding: 0 };
                self.transposed_conv("head.conv1", x, (width, half, 4), doubled)?
            }
        };
        let x = self.graph.relu("head.relu1", x)?;
        let x = self.conv("head.conv2", x, (half, half, 3), Conv::same(3), true)?;
        let x = self.graph.relu("head.relu2", x)?;
        self.conv("head.conv3", x, (half, 1, 3), Conv::same(3), true)
    }

    fn shared_conv(&mut self, name: &str, channels: usize, kernel: usize) -> Result<(ValueId, ValueId)> {
        let filter = Shape::Filter { outputs: channels, inputs: channels, height: kernel, width: kernel };
        let filter = self.graph.state(&format!("{name}.weight"), filter);
        let bias = self.graph.state(&format!("{name}.bias"), Shape::Channels { channels });
        Ok((filter, bias))
    }

    fn conv(
        &mut self,
        name: &str,
        x: ValueId,
        (inputs, outputs, kernel): (usize, usize, usize),
        conv: Conv,
        biased: bool,
    ) -> Result<ValueId> {
        let filter = Shape::Filter { outputs, inputs, height: kernel, width: kernel };
        let filter = self.graph.state(&format!("{name}.weight"), filter);
        let bias = biased.then(|| self.graph.state(&format!("{name}.bias"), Shape::Channels { channels: outputs }));
        self.graph.conv(name, x, filter, bias, conv)
    }

    fn transposed_conv(
        &mut self,
        name: &str,
        x: ValueId,
        (inputs, outputs, kernel): (usize, usize, usize),
        conv: TransposedConv,
    ) -> Result<ValueId> {
        let filter = Shape::Filter { outputs: inputs, inputs: outputs, height: kernel, width: kernel };
        let filter = self.graph.state(&format!("{name}.weight"), filter);
        let bias = self.graph.state(&format!("{name}.bias"), Shape::Channels { channels: outputs });
        self.graph.transposed_conv(name, x, filter, Some(bias), conv)
    }

    fn norm(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        let Shape::Maps { channels, .. } = self.graph.shape(x) else { unreachable!("layers make maps") };
        let gamma = self.graph.state(&format!("{name}.weight"), Shape::Channels { channels });
        let beta = self.graph.state(&format!("{name}.bias"), Shape::Channels { channels });
        self.graph.instance_norm(name, x, gamma, beta)
    }
}

//! A training run on disk: parameters, their average, moments and place in the run, in one safetensors file.
//!
//! A checkpoint is written beside the old one, synced and renamed over it, so that a kill at any moment leaves a
//! whole file.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use candle_core::{Device, Tensor};

use crate::model::Layout;
use crate::optimizer::Moments;

/// How far a run is. With the run's seed it determines all that follows: nothing else is random.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Steps done.
    pub step: u64,
    /// Pass over the traces.
    pub epoch: u64,
    /// Batches of this pass that are done.
    pub batch: u64,
}

/// All that a run needs to go on.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The flat parameter vector.
    pub parameters: Vec<f32>,
    /// The parameters' moving average: what is validated, exported and begun from.
    pub average: Vec<f32>,
    /// The optimiser's moments.
    pub moments: Moments,
    /// How far the run is.
    pub place: Place,
}

const PARAMETER: &str = "parameter";
const AVERAGE: &str = "average";
const FIRST: &str = "first_moment";
const SECOND: &str = "second_moment";
const PLACE: &str = "place";

/// The checkpoint's path in the directory of a run.
pub fn path(run: &Path) -> PathBuf {
    run.join("checkpoint.safetensors")
}

/// The tensors of one kind, end to end.
fn collect(layout: &Layout, tensors: &HashMap<String, Tensor>, kind: &str) -> anyhow::Result<Vec<f32>> {
    let mut values = Vec::with_capacity(layout.len);
    for parameter in &layout.parameters {
        let name = format!("{kind}.{}", parameter.name);
        let tensor = tensors.get(&name).with_context(|| format!("no tensor {name}"))?;
        let shape = (parameter.rows, parameter.columns);
        ensure!(tensor.dims2()? == shape, "{name} is of shape {:?}, not {shape:?}", tensor.shape());
        values.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(values)
}

impl Checkpoint {
    /// Before the first step, from chance.
    pub fn initial(layout: &Layout, seed: u64) -> Self {
        Self::starting_from(layout.initial(seed))
    }

    /// Before the first step, from these parameters.
    pub fn starting_from(parameters: Vec<f32>) -> Self {
        let moments = Moments::new(parameters.len());
        Self { average: parameters.clone(), parameters, moments, place: Place::default() }
    }

    /// Writes it into the directory of a run.
    pub fn save(&self, layout: &Layout, run: &Path) -> anyhow::Result<()> {
        let mut tensors = HashMap::new();
        let kinds = [
            (PARAMETER, &self.parameters),
            (AVERAGE, &self.average),
            (FIRST, &self.moments.first),
            (SECOND, &self.moments.second),
        ];
        for (kind, source) in kinds {
            for parameter in &layout.parameters {
                let values = source.get(parameter.range.clone()).context("a checkpoint of another shape")?;
                let tensor = Tensor::from_slice(values, (parameter.rows, parameter.columns), &Device::Cpu)?;
                tensors.insert(format!("{kind}.{}", parameter.name), tensor);
            }
        }
        let Place { step, epoch, batch } = self.place;
        let numbers = [step, epoch, batch].map(|number| number as f64);
        tensors.insert(PLACE.to_owned(), Tensor::new(&numbers, &Device::Cpu)?);
        let (path, partial) = (path(run), run.join("checkpoint.partial"));
        candle_core::safetensors::save(&tensors, &partial).context("write the checkpoint")?;
        File::open(&partial)?.sync_all()?;
        std::fs::rename(&partial, &path).context("rename the checkpoint")?;
        File::open(run)?.sync_all().context("sync the directory")
    }

    /// Reads the checkpoint of a run; `None` if it has none yet.
    pub fn load(layout: &Layout, run: &Path) -> anyhow::Result<Option<Self>> {
        let path = path(run);
        if !path.exists() {
            return Ok(None);
        }
        Self::read(layout, &path).with_context(|| format!("read {}", path.display())).map(Some)
    }

    fn read(layout: &Layout, path: &Path) -> anyhow::Result<Self> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
        let numbers = tensors.get(PLACE).context("no place")?.to_vec1::<f64>()?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts, stored as f64")]
        let [step, epoch, batch] =
            <[f64; 3]>::try_from(numbers).map_err(|_| anyhow!("a bad place"))?.map(|number| number as u64);
        let moments =
            Moments { first: collect(layout, &tensors, FIRST)?, second: collect(layout, &tensors, SECOND)? };
        Ok(Self {
            parameters: collect(layout, &tensors, PARAMETER)?,
            average: collect(layout, &tensors, AVERAGE)?,
            moments,
            place: Place { step, epoch, batch },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Shape;

    #[test]
    fn a_run_goes_on_where_it_was_saved() {
        let shape = Shape { vocabulary: 32, width: 16, layers: 1, ffn: 16, ..Shape::NANO };
        let layout = Layout::new(shape);
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Checkpoint::load(&layout, directory.path()).unwrap(), None);
        let mut checkpoint = Checkpoint::initial(&layout, 3);
        checkpoint.moments.first[7] = 0.25;
        checkpoint.average[9] = 0.5;
        checkpoint.place = Place { step: 12, epoch: 3, batch: 4 };
        checkpoint.save(&layout, directory.path()).unwrap();
        assert_eq!(Checkpoint::load(&layout, directory.path()).unwrap(), Some(checkpoint));
    }
}

//! The arithmetic between the matrix products, for several instruction sets: attention over paged keys and values,
//! norms, activations, rotation, and the loops that spread them over the compute pool.
//!
//! Everything here checks its slices' lengths once per call and then indexes freely; nothing outside this module
//! does. The same safe body is compiled for each instruction set; only attention has a hand-written AVX-512 form,
//! which is tested against the portable one.

mod attention;
#[cfg(target_arch = "x86_64")]
mod attention_avx512;
mod blocks;
#[cfg(target_arch = "x86_64")]
mod blocks_vnni;
mod kv;
mod parallel;
mod vector;

pub(crate) use attention::{AttentionRows, attend};
pub(crate) use blocks::{BlockActivations, BlockFormat, BlockMatrix};
pub(crate) use kv::{BLOCK_TOKENS, BlockTable, KvLayout, KvPages};
pub(crate) use parallel::for_each_part_mut;
pub(crate) use vector::{
    add_assign, exp_sum, max_value, rms_norm, rope_interleaved, silu_multiply, softmax_weights,
};

/// The instruction set that the kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512 F, BW, VL, DQ with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler was told to assume.
    Portable,
}

impl Level {
    /// The best that this machine has.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
            {
                return Self::Avx512;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Every level that this machine can run, for tests that compare them.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        match Self::detect() {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => vec![Self::Portable, Self::Avx2, Self::Avx512],
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => vec![Self::Portable, Self::Avx2],
            Self::Portable => vec![Self::Portable],
        }
    }
}

/// Defines `$name(level, args)` that runs the body `$body` compiled for `level`.
macro_rules! for_every_level {
    ($(#[$doc:meta])* $name:ident, $avx512:ident, $avx2:ident, $body:ident,
     ($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
        fn $avx512($($arg: $type),*) $(-> $result)? {
            $body($($arg),*)
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn $avx2($($arg: $type),*) $(-> $result)? {
            $body($($arg),*)
        }

        $(#[$doc])*
        #[expect(unsafe_code, reason = "calls a function compiled for instructions that `Level` stands for")]
        pub(crate) fn $name(level: $crate::kernels::Level, $($arg: $type),*) $(-> $result)? {
            match level {
                // SAFETY: this level is only made by `Level::detect`, which found these instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Level::Avx512 => unsafe { $avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Level::Avx2 => unsafe { $avx2($($arg),*) },
                $crate::kernels::Level::Portable => $body($($arg),*),
            }
        }
    };
}
use for_every_level;

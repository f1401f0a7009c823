//! Why a block was given to a node: known when the lease is made, and written on it in one word.

use serde::{
    Deserialize, Serialize,
    de::{IntoDeserializer as _, value},
};

/// As in the annotation [`tartan_crds::wellknown::annotation::CHOSEN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// The lowest free block of the first entry in the node's reach that had one.
    LowestFree,
    /// The Node's podCIDRs named it.
    PodCidr,
    /// It was reserved for the node.
    Reserved,
    /// The node had it before, and lost its lease.
    HadBefore,
    /// The node had it, and somebody deleted its lease.
    Restored,
    /// A further block, since the node's addresses ran low.
    Further,
}

impl Choice {
    /// `None` for a word that this version does not know.
    pub fn parse(word: &str) -> Option<Self> {
        let word: value::StrDeserializer<'_, value::Error> = word.into_deserializer();
        Self::deserialize(word).ok()
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::LowestFree => "lowest-free",
            Self::PodCidr => "pod-cidr",
            Self::Reserved => "reserved",
            Self::HadBefore => "had-before",
            Self::Restored => "restored",
            Self::Further => "further",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_written_is_read_again() {
        for word in ["lowest-free", "pod-cidr", "reserved", "had-before", "restored", "further"] {
            let chosen = Choice::parse(word).unwrap_or_else(|| panic!("{word} is not read"));
            assert_eq!((chosen.as_str(), serde_json::json!(chosen)), (word, word.into()));
        }
        assert_eq!(Choice::parse("by-lot"), None);
    }
}

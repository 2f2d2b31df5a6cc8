"""The catalogue of distillation methods: to add one, write its class in a file of this folder and name it here."""

PLACES = {
    "none": "response:Plain",
    "st": "response:SoftTarget",
    "logits": "response:Logits",
    "dkd": "response:Decoupled",
    "dist": "correlation:Correlations",
    "nkd": "target:Normalised",
    "wsld": "target:WeightedSoftLabels",
    "ttm": "temperature:TransformedTeacher",
    "ctkd": "temperature:Curriculum",
    "rld": "target:Refined",
    "wkd": "transport:Transport",
    "bkd": "binary:Binary",
    "hard": "hard:HardLabels",
    "ls": "regularise:LabelSmoothing",
    "uskd": "ranks:Ranks",
    "tfkd": "regularise:TeacherFree",
    "dml": "mutual:Mutual",
    "at": "attention:Attention",
    "fitnet": "hints:FitNet",
    "vid": "hints:VID",
    "ft": "factor:FactorTransfer",
    "ab": "boundary:ActivationBoundaries",
    "co": "boundary:Overhaul",
    "fsp": "fsp:FSP",
    "sp": "similarity:SimilarityPreserving",
    "nst": "similarity:NeuronSelectivity",
    "rkd": "relation:Relational",
    "kdsvd": "svd:SingularVectors",
    "mhgd": "mhgd:Graph",
    "pkt": "batchwise:ProbabilisticTransfer",
    "cc": "batchwise:Correlation",
    "feat": "embedding:Feature",
    "vkd": "embedding:Orthogonal",
    "srd": "embedding:SimpleRecipe",
    "crd": "memory:Contrastive",
    "queue": "memory:Queue",
}
"""Name -> MODULE:CLASS, as text: whoever only wants the names need not import torch."""

ALIASES = {"kdeid": ("kdsvd", "eid"), "wttm": ("ttm", "weighted")}
"""Names that stand for a variant."""

"""M²IV: multimodal in-context vectors, trained by self-distillation (Li et al., COLM 2025, arXiv 2504.04633)."""

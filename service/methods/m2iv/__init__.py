"""M²IV: multimodal in-context vectors, trained by self-distillation (Li et al., COLM 2025)."""

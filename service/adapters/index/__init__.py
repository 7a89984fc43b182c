"""The task index on FAISS. Its public class is `FaissIndex`; `IndexLimits` configures it."""

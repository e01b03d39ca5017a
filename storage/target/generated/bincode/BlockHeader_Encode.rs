impl :: bincode :: Encode for BlockHeader
{
    fn encode < __E : :: bincode :: enc :: Encoder >
    (& self, encoder : & mut __E) ->core :: result :: Result < (), :: bincode
    :: error :: EncodeError >
    {
        :: bincode :: Encode :: encode(&self.id, encoder) ?; :: bincode ::
        Encode :: encode(&self.mint, encoder) ?; :: bincode :: Encode ::
        encode(&self.maxt, encoder) ?; :: bincode :: Encode ::
        encode(&self.range_mint, encoder) ?; :: bincode :: Encode ::
        encode(&self.range_maxt, encoder) ?; :: bincode :: Encode ::
        encode(&self.level, encoder) ?; :: bincode :: Encode ::
        encode(&self.seq_min, encoder) ?; :: bincode :: Encode ::
        encode(&self.seq_max, encoder) ?; :: bincode :: Encode ::
        encode(&self.tables, encoder) ?; :: bincode :: Encode ::
        encode(&self.parents, encoder) ?; :: bincode :: Encode ::
        encode(&self.n_keys, encoder) ?; :: bincode :: Encode ::
        encode(&self.n_series, encoder) ?; :: bincode :: Encode ::
        encode(&self.n_chunks, encoder) ?; :: bincode :: Encode ::
        encode(&self.n_floats, encoder) ?; :: bincode :: Encode ::
        encode(&self.n_histograms, encoder) ?; :: bincode :: Encode ::
        encode(&self.content_hash, encoder) ?; :: bincode :: Encode ::
        encode(&self.n_symbols, encoder) ?; :: bincode :: Encode ::
        encode(&self.symbol_parts, encoder) ?; core :: result :: Result ::
        Ok(())
    }
}
impl < __Context > :: bincode :: Decode < __Context > for BlockHeader
{
    fn decode < __D : :: bincode :: de :: Decoder < Context = __Context > >
    (decoder : & mut __D) ->core :: result :: Result < Self, :: bincode ::
    error :: DecodeError >
    {
        core :: result :: Result ::
        Ok(Self
        {
            id : :: bincode :: Decode :: decode(decoder) ?, mint : :: bincode
            :: Decode :: decode(decoder) ?, maxt : :: bincode :: Decode ::
            decode(decoder) ?, range_mint : :: bincode :: Decode ::
            decode(decoder) ?, range_maxt : :: bincode :: Decode ::
            decode(decoder) ?, level : :: bincode :: Decode :: decode(decoder)
            ?, seq_min : :: bincode :: Decode :: decode(decoder) ?, seq_max :
            :: bincode :: Decode :: decode(decoder) ?, tables : :: bincode ::
            Decode :: decode(decoder) ?, parents : :: bincode :: Decode ::
            decode(decoder) ?, n_keys : :: bincode :: Decode ::
            decode(decoder) ?, n_series : :: bincode :: Decode ::
            decode(decoder) ?, n_chunks : :: bincode :: Decode ::
            decode(decoder) ?, n_floats : :: bincode :: Decode ::
            decode(decoder) ?, n_histograms : :: bincode :: Decode ::
            decode(decoder) ?, content_hash : :: bincode :: Decode ::
            decode(decoder) ?, n_symbols : :: bincode :: Decode ::
            decode(decoder) ?, symbol_parts : :: bincode :: Decode ::
            decode(decoder) ?,
        })
    }
} impl < '__de, __Context > :: bincode :: BorrowDecode < '__de, __Context >
for BlockHeader
{
    fn borrow_decode < __D : :: bincode :: de :: BorrowDecoder < '__de,
    Context = __Context > > (decoder : & mut __D) ->core :: result :: Result <
    Self, :: bincode :: error :: DecodeError >
    {
        core :: result :: Result ::
        Ok(Self
        {
            id : :: bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?, mint : :: bincode :: BorrowDecode ::<
            '_, __Context >:: borrow_decode(decoder) ?, maxt : :: bincode ::
            BorrowDecode ::< '_, __Context >:: borrow_decode(decoder) ?,
            range_mint : :: bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?, range_maxt : :: bincode :: BorrowDecode
            ::< '_, __Context >:: borrow_decode(decoder) ?, level : :: bincode
            :: BorrowDecode ::< '_, __Context >:: borrow_decode(decoder) ?,
            seq_min : :: bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?, seq_max : :: bincode :: BorrowDecode ::<
            '_, __Context >:: borrow_decode(decoder) ?, tables : :: bincode ::
            BorrowDecode ::< '_, __Context >:: borrow_decode(decoder) ?,
            parents : :: bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?, n_keys : :: bincode :: BorrowDecode ::<
            '_, __Context >:: borrow_decode(decoder) ?, n_series : :: bincode
            :: BorrowDecode ::< '_, __Context >:: borrow_decode(decoder) ?,
            n_chunks : :: bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?, n_floats : :: bincode :: BorrowDecode
            ::< '_, __Context >:: borrow_decode(decoder) ?, n_histograms : ::
            bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?, content_hash : :: bincode ::
            BorrowDecode ::< '_, __Context >:: borrow_decode(decoder) ?,
            n_symbols : :: bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?, symbol_parts : :: bincode ::
            BorrowDecode ::< '_, __Context >:: borrow_decode(decoder) ?,
        })
    }
}